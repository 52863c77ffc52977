package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// write makes, changes and removes one object.
func write(ctx context.Context, c *cluster, name string) error {
	maps := c.json.CoreV1().ConfigMaps(c.namespace)
	if _, err := maps.Create(ctx, configMap(name, map[string]string{"a": "1"}, name), metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := maps.Patch(ctx, name, types.MergePatchType, []byte(`{"data":{"a":"2"}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	return maps.Delete(ctx, name, metav1.DeleteOptions{})
}

// next is the type, name and data of the next event.
func next(events watch.Interface) string {
	select {
	case event, open := <-events.ResultChan():
		if !open {
			return "the watch ended"
		}
		if item, ok := event.Object.(*corev1.ConfigMap); ok {
			return fmt.Sprintf("%s %s %v", event.Type, item.Name, item.Data)
		}
		return fmt.Sprintf("%s %T", event.Type, event.Object)
	case <-time.After(deadline):
		return "no event"
	}
}

// watching is a watch from the revision of a list, in both formats.
func watching(ctx context.Context, c *cluster) error {
	for format, client := range map[string]kubernetes.Interface{"json": c.json, "protobuf": c.protobuf} {
		maps := client.CoreV1().ConfigMaps(c.namespace)
		name := "seen-" + format
		list, err := maps.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if err := write(ctx, c, name); err != nil {
			return err
		}
		events, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: "kind=" + name})
		if err != nil {
			return err
		}
		defer events.Stop()
		for _, wanted := range []string{"ADDED " + name + " map[a:1]", "MODIFIED " + name + " map[a:2]", "DELETED " + name + " map[a:2]"} {
			if err := expect("an event in "+format, next(events), wanted); err != nil {
				return err
			}
		}
	}
	return nil
}

// watchList is a list as a watch, which ends with an annotated bookmark.
func watchList(ctx context.Context, c *cluster) error {
	maps := c.protobuf.CoreV1().ConfigMaps(c.namespace)
	if _, err := maps.Create(ctx, configMap("listed", nil, "listed"), metav1.CreateOptions{}); err != nil {
		return err
	}
	initial := true
	events, err := maps.Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &initial, AllowWatchBookmarks: true, LabelSelector: "kind=listed",
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		return err
	}
	defer events.Stop()
	if err := expect("the first event", next(events), "ADDED listed map[]"); err != nil {
		return err
	}
	select {
	case event := <-events.ResultChan():
		object, err := meta.Accessor(event.Object)
		if err != nil {
			return err
		}
		return expect("the bookmark", fmt.Sprint(event.Type, object.GetAnnotations()), "BOOKMARKmap[k8s.io/initial-events-end:true]")
	case <-time.After(deadline):
		return fmt.Errorf("no bookmark ended the initial events")
	}
}

// informer is a shared informer, whose reflector lists by watching.
func informer(ctx context.Context, c *cluster) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(c.protobuf, 0, informers.WithNamespace(c.namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = "kind in (informed,told)" }))
	maps := factory.Core().V1().ConfigMaps()
	var lock sync.Mutex
	told := map[string]bool{}
	tell := func(text string) { lock.Lock(); told[text] = true; lock.Unlock() }
	knows := func(text string) func() bool {
		return func() bool { lock.Lock(); defer lock.Unlock(); return told[text] }
	}
	_, err := maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(item any) { tell("add " + item.(*corev1.ConfigMap).Name) },
		UpdateFunc: func(_, item any) { tell("update " + item.(*corev1.ConfigMap).Data["a"]) },
		DeleteFunc: func(item any) {
			if item, ok := item.(*corev1.ConfigMap); ok {
				tell("delete " + item.Name)
			}
		},
	})
	if err != nil {
		return err
	}
	if _, err := c.json.CoreV1().ConfigMaps(c.namespace).Create(ctx, configMap("before", nil, "informed"), metav1.CreateOptions{}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), maps.Informer().HasSynced) {
		return fmt.Errorf("the cache did not fill")
	}
	if _, err := maps.Lister().ConfigMaps(c.namespace).Get("before"); err != nil {
		return err
	}
	if err := write(ctx, c, "told"); err != nil {
		return err
	}
	for _, wanted := range []string{"add before", "add told", "update 2", "delete told"} {
		if err := until(ctx, "the informer tells "+wanted, knows(wanted)); err != nil {
			return err
		}
	}
	return nil
}

// customResource defines a resource, and finds it in the dynamic client as any other.
func customResource(ctx context.Context, c *cluster) error {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return err
	}
	group := c.namespace + ".example.com"
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	spec := map[string]any{
		"group": group, "scope": "Namespaced",
		"names": map[string]any{"plural": "widgets", "singular": "widget", "kind": "Widget"},
		"versions": []any{map[string]any{
			"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
				"spec":   map[string]any{"type": "object", "properties": map[string]any{"size": map[string]any{"type": "integer", "maximum": int64(9), "default": int64(3)}}},
				"status": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
			}}},
		}},
	}
	_, err = definitions.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "widgets." + group}, "spec": spec,
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	defer definitions.Delete(ctx, "widgets."+group, metav1.DeleteOptions{})
	widgets := client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "widgets"}).Namespace(c.namespace)
	widget := func(name string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": group + "/v1", "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": spec, "status": map[string]any{"a": "b"},
		}}
	}
	var made *unstructured.Unstructured
	err = until(ctx, "widgets can be made", func() bool {
		made, err = widgets.Create(ctx, widget("w", map[string]any{"pruned": "x"}), metav1.CreateOptions{})
		return err == nil
	})
	if err != nil {
		return err
	}
	if err := expect("the widget, pruned and defaulted", fmt.Sprint(made.Object["spec"], made.Object["status"]), "map[size:3] <nil>"); err != nil {
		return err
	}
	made.Object["status"] = map[string]any{"phase": "Good"}
	made, err = widgets.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	if err := expect("the status", fmt.Sprint(made.Object["status"], made.GetGeneration()), "map[phase:Good] 1"); err != nil {
		return err
	}
	_, err = widgets.Create(ctx, widget("x", map[string]any{"size": int64(10)}), metav1.CreateOptions{})
	return refused("a widget that is too large", err, 422, metav1.StatusReasonInvalid)
}
