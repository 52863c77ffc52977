package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// pod starts the pod that the parts after it use.
func pod(ctx context.Context, c *cluster) error {
	now := int64(0)
	pods := c.protobuf.CoreV1().Pods(c.namespace)
	_, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod"},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{{Name: "main", Image: image, Args: []string{"netexec", "--http-port=8080"}}},
			TerminationGracePeriodSeconds: &now,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return until(ctx, "the pod runs", func() bool {
		pod, err := pods.Get(ctx, "pod", metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning
	})
}

func (c *cluster) subresource(name string) *rest.Request {
	return c.json.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.namespace).Name("pod").SubResource(name)
}

// executing runs one command over WebSocket and over SPDY: input that ends, both outputs, and the exit code.
func executing(ctx context.Context, c *cluster) error {
	url := c.subresource("exec").VersionedParams(&corev1.PodExecOptions{
		Command: []string{"sh", "-c", "cat; echo err >&2; exit 3"}, Stdin: true, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec).URL()
	overWebSocket, err := remotecommand.NewWebSocketExecutor(c.config, "GET", url.String())
	if err != nil {
		return err
	}
	overSpdy, err := remotecommand.NewSPDYExecutor(c.config, "POST", url)
	if err != nil {
		return err
	}
	long := strings.Repeat("0123456789", 200_000)
	for name, executor := range map[string]remotecommand.Executor{"WebSocket": overWebSocket, "SPDY": overSpdy} {
		var out, fault bytes.Buffer
		err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(long), Stdout: &out, Stderr: &fault})
		var code utilexec.CodeExitError
		if !errors.As(err, &code) || code.Code != 3 {
			return fmt.Errorf("over %s the command ended with %v, expected exit code 3", name, err)
		}
		if out.String() != long {
			return fmt.Errorf("over %s %d bytes of %d came back", name, out.Len(), len(long))
		}
		if err := expect("stderr over "+name, fault.String(), "err\n"); err != nil {
			return err
		}
	}
	return nil
}

// forwarding asks the pod over SPDY, and over SPDY within WebSocket.
func forwarding(ctx context.Context, c *cluster) error {
	url := c.subresource("portforward").URL()
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(url, c.config)
	if err != nil {
		return err
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return err
	}
	plain := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", url)
	for name, dialer := range map[string]httpstream.Dialer{"SPDY within WebSocket": tunnel, "SPDY": plain} {
		if err := forward(dialer); err != nil {
			return fmt.Errorf("over %s: %w", name, err)
		}
	}
	return nil
}

func forward(dialer httpstream.Dialer) error {
	stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	go func() { done <- forwarder.ForwardPorts() }()
	defer close(stop)
	select {
	case <-ready:
	case err := <-done:
		return err
	case <-time.After(deadline):
		return fmt.Errorf("not ready after %s", deadline)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	for number := range 3 {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/echo?msg=through-%d", ports[0].Local, number))
		if err != nil {
			return err
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			return err
		}
		if err := expect("the answer", string(body), fmt.Sprintf("through-%d", number)); err != nil {
			return err
		}
	}
	return nil
}

func logs(ctx context.Context, c *cluster) error {
	pods, one := c.json.CoreV1().Pods(c.namespace), int64(1)
	var all []byte
	err := until(ctx, "the log tells of the two ports and of the six requests that were forwarded", func() bool {
		all, _ = pods.GetLogs("pod", &corev1.PodLogOptions{}).DoRaw(ctx)
		return strings.Count(string(all), "Started") == 2 && strings.Count(string(all), "GET /echo") == 6
	})
	if err != nil {
		return err
	}
	last, err := pods.GetLogs("pod", &corev1.PodLogOptions{TailLines: &one}).DoRaw(ctx)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(all), "\n"), "\n")
	if err := expect("the last line", string(last), lines[len(lines)-1]+"\n"); err != nil {
		return err
	}
	followed, err := pods.GetLogs("pod", &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		return err
	}
	defer followed.Close()
	begin := make([]byte, len(all))
	if _, err := io.ReadFull(followed, begin); err != nil {
		return err
	}
	return expect("what is followed", string(begin), string(all))
}

// election has two candidates for one lease: the second leads once the first has given it back.
func election(ctx context.Context, c *cluster) error {
	leads := make(chan string, 2)
	candidate := func(ctx context.Context, identity string) {
		lock, err := resourcelock.New(resourcelock.LeasesResourceLock, c.namespace, "election", c.json.CoreV1(), c.json.CoordinationV1(),
			resourcelock.ResourceLockConfig{Identity: identity})
		if err != nil {
			leads <- err.Error()
			return
		}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 300 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { leads <- identity }, OnStoppedLeading: func() {}},
		})
	}
	who := func() string {
		select {
		case identity := <-leads:
			return identity
		case <-time.After(4 * time.Second):
			return "nobody new"
		}
	}
	first, release := context.WithCancel(ctx)
	defer release()
	second, end := context.WithCancel(ctx)
	defer end()
	go candidate(first, "first")
	if err := expect("who leads", who(), "first"); err != nil {
		return err
	}
	go candidate(second, "second")
	if err := expect("who leads after more than a lease", who(), "nobody new"); err != nil {
		return err
	}
	release()
	if err := expect("who leads after the first gave up", who(), "second"); err != nil {
		return err
	}
	lease, err := c.json.CoordinationV1().Leases(c.namespace).Get(ctx, "election", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return expect("holder and transitions", fmt.Sprintf("%s %d", *lease.Spec.HolderIdentity, *lease.Spec.LeaseTransitions), "second 1")
}
