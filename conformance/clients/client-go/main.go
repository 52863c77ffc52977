// Command client-go drives a cluster with the Go client library; ../README.md tells what each of these programs does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	image    = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
	deadline = time.Minute
)

// cluster is what every part is given: typed clients in JSON and in protobuf, and a namespace of this run.
type cluster struct {
	config    *rest.Config
	json      kubernetes.Interface
	protobuf  kubernetes.Interface
	namespace string
}

type part struct {
	name string
	run  func(context.Context, *cluster) error
}

var parts = []part{
	{"discovery", discovery},
	{"typed", typed},
	{"protobuf", protobuf},
	{"dynamic", dynamics},
	{"pages", pages},
	{"watch", watching},
	{"watch list", watchList},
	{"informer", informer},
	{"metadata", metadataOnly},
	{"apply", applying},
	{"custom resource", customResource},
	{"pod", pod},
	{"exec", executing},
	{"port-forward", forwarding},
	{"logs", logs},
	{"election", election},
}

func main() {
	klog.SetLogger(logr.Discard())
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "client-go:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	begun := time.Now()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 200, 400
	binary := rest.CopyConfig(config)
	binary.ContentType, binary.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	c := &cluster{
		config: config, json: kubernetes.NewForConfigOrDie(config), protobuf: kubernetes.NewForConfigOrDie(binary),
		namespace: "client-go-" + rand.String(6),
	}
	namespaces := c.json.CoreV1().Namespaces()
	if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, namespaces.Delete(ctx, c.namespace, metav1.DeleteOptions{})) }()
	for _, part := range parts {
		limited, cancel := context.WithTimeout(ctx, 2*deadline)
		err := part.run(limited, c)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Println("ok", part.name)
	}
	fmt.Printf("%d parts passed in %.1f s\n", len(parts), time.Since(begun).Seconds())
	return nil
}

// expect is nil when both are equal.
func expect(what string, got, wanted any) error {
	if reflect.DeepEqual(got, wanted) {
		return nil
	}
	return fmt.Errorf("%s: got %#v, expected %#v", what, got, wanted)
}

// refused is nil when the server said no for this reason, and with a whole Status.
func refused(what string, err error, code int32, reason metav1.StatusReason) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return fmt.Errorf("%s: got %v, expected %d %s", what, err, code, reason)
	}
	return expect(what, fmt.Sprint(status.Status().Code, status.Status().Reason), fmt.Sprint(code, reason))
}

func until(ctx context.Context, what string, condition func() bool) error {
	done := func(context.Context) (bool, error) { return condition(), nil }
	if wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, deadline, true, done) != nil {
		return fmt.Errorf("not so after %s: %s", deadline, what)
	}
	return nil
}

func configMap(name string, data map[string]string, kind string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kind": kind}}, Data: data}
}
