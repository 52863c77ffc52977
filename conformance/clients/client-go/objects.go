package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func discovery(ctx context.Context, c *cluster) error {
	version, err := c.json.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	if err := expect("the major version", version.Major, "1"); err != nil {
		return err
	}
	resources, err := restmapper.GetAPIGroupResources(c.json.Discovery())
	if err != nil {
		return err
	}
	mapping, err := restmapper.NewDiscoveryRESTMapper(resources).RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"})
	if err != nil {
		return err
	}
	return expect("the resource of Deployment", mapping.Resource.String(), "apps/v1, Resource=deployments")
}

// typed is create, read, update, patch and delete with the generated client, in JSON.
func typed(ctx context.Context, c *cluster) error { return crud(ctx, c.json, c.namespace, "json") }

// protobuf is the same in protobuf, and that both forms are of one object.
func protobuf(ctx context.Context, c *cluster) error {
	if err := crud(ctx, c.protobuf, c.namespace, "protobuf"); err != nil {
		return err
	}
	a, err := c.protobuf.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, one := range a.Items {
		two, err := c.json.CoreV1().Namespaces().Get(ctx, one.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if one.ResourceVersion == two.ResourceVersion && !equality.Semantic.DeepEqual(&one, two) {
			return fmt.Errorf("namespace %s: protobuf says %v, JSON says %v", one.Name, one, two)
		}
	}
	return nil
}

func crud(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	maps := client.CoreV1().ConfigMaps(namespace)
	made, err := maps.Create(ctx, configMap(name, map[string]string{"a": "1"}, "crud"), metav1.CreateOptions{FieldValidation: "Strict"})
	if err != nil {
		return err
	}
	read, err := maps.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := expect("what is read after it was created", read, made); err != nil {
		return err
	}
	_, err = maps.Create(ctx, configMap(name, nil, ""), metav1.CreateOptions{})
	if err := refused("create again", err, 409, metav1.StatusReasonAlreadyExists); err != nil {
		return err
	}
	_, err = maps.Create(ctx, configMap("No_Name", nil, ""), metav1.CreateOptions{})
	if err := refused("create with a bad name", err, 422, metav1.StatusReasonInvalid); err != nil {
		return err
	}
	read.Data["a"] = "2"
	updated, err := maps.Update(ctx, read, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	_, err = maps.Update(ctx, read, metav1.UpdateOptions{})
	if err := refused("update of an old revision", err, 409, metav1.StatusReasonConflict); err != nil {
		return err
	}
	if err := expect("the data after an update", updated.Data, map[string]string{"a": "2"}); err != nil {
		return err
	}
	patches := []struct {
		kind types.PatchType
		body string
		data map[string]string
	}{
		{types.MergePatchType, `{"data":{"a":null,"b":"3"}}`, map[string]string{"b": "3"}},
		{types.StrategicMergePatchType, `{"data":{"c":"4"}}`, map[string]string{"b": "3", "c": "4"}},
		{types.JSONPatchType, `[{"op":"move","from":"/data/c","path":"/data/d"}]`, map[string]string{"b": "3", "d": "4"}},
	}
	for _, patch := range patches {
		patched, err := maps.Patch(ctx, name, patch.kind, []byte(patch.body), metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("%s: %w", patch.kind, err)
		}
		if err := expect("the data after "+string(patch.kind), patched.Data, patch.data); err != nil {
			return err
		}
	}
	stale := metav1.DeleteOptions{Preconditions: metav1.NewRVDeletionPrecondition(made.ResourceVersion).Preconditions}
	if err := refused("delete of an old revision", maps.Delete(ctx, name, stale), 409, metav1.StatusReasonConflict); err != nil {
		return err
	}
	if err := maps.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	_, err = maps.Get(ctx, name, metav1.GetOptions{})
	return refused("read after delete", err, 404, metav1.StatusReasonNotFound)
}

// dynamics is the client that knows no types.
func dynamics(ctx context.Context, c *cluster) error {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return err
	}
	deployments := client.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace(c.namespace)
	container := map[string]any{"name": "main", "image": image}
	labels := map[string]any{"app": "dynamic"}
	made, err := deployments.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "dynamic"},
		"spec": map[string]any{
			"replicas": int64(0), "selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{container}}},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	policy, _, _ := unstructured.NestedString(made.Object, "spec", "template", "spec", "restartPolicy")
	if err := expect("the defaulted restartPolicy", policy, "Always"); err != nil {
		return err
	}
	scale, err := deployments.Get(ctx, "dynamic", metav1.GetOptions{}, "scale")
	if err != nil {
		return err
	}
	selector, _, _ := unstructured.NestedString(scale.Object, "status", "selector")
	if err := expect("the scale's kind and selector", scale.GetKind()+" "+selector, "Scale app=dynamic"); err != nil {
		return err
	}
	unstructured.RemoveNestedField(made.Object, "spec", "template", "spec", "containers")
	made.SetResourceVersion("") // the controller writes its status beside us
	_, err = deployments.Update(ctx, made, metav1.UpdateOptions{})
	if err := refused("a deployment without containers", err, 422, metav1.StatusReasonInvalid); err != nil {
		return err
	}
	return deployments.Delete(ctx, "dynamic", metav1.DeleteOptions{})
}

// pages is a list in chunks, and deletecollection.
func pages(ctx context.Context, c *cluster) error {
	maps := c.protobuf.CoreV1().ConfigMaps(c.namespace)
	for number := range 5 {
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("page-%d", number), nil, "page"), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	options, names := metav1.ListOptions{LabelSelector: "kind=page", Limit: 2}, []string{}
	for {
		page, err := maps.List(ctx, options)
		if err != nil {
			return err
		}
		for _, item := range page.Items {
			names = append(names, item.Name)
		}
		if options.Continue = page.Continue; options.Continue == "" {
			break
		}
	}
	if err := expect("the items of all pages", names, []string{"page-0", "page-1", "page-2", "page-3", "page-4"}); err != nil {
		return err
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "kind=page"}); err != nil {
		return err
	}
	left, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "kind=page"})
	if err != nil {
		return err
	}
	return expect("what deletecollection left", len(left.Items), 0)
}

func metadataOnly(ctx context.Context, c *cluster) error {
	client, err := metadata.NewForConfig(c.config)
	if err != nil {
		return err
	}
	if _, err := c.json.CoreV1().ConfigMaps(c.namespace).Create(ctx, configMap("meta", nil, "meta"), metav1.CreateOptions{}); err != nil {
		return err
	}
	list, err := client.Resource(configMaps).Namespace(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: "kind=meta"})
	if err != nil {
		return err
	}
	if err := expect("the number of items", len(list.Items), 1); err != nil {
		return err
	}
	return expect("the item", list.Items[0].Name, "meta")
}

// applying is server-side apply: conflicts, force, and fields that go with their owner.
func applying(ctx context.Context, c *cluster) error {
	maps := c.json.CoreV1().ConfigMaps(c.namespace)
	apply := func(manager string, data map[string]string, force bool) (*corev1.ConfigMap, error) {
		wanted := applycorev1.ConfigMap("applied", c.namespace)
		if data != nil {
			wanted = wanted.WithData(data)
		}
		return maps.Apply(ctx, wanted, metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	if _, err := apply("one", map[string]string{"a": "1", "b": "1"}, false); err != nil {
		return err
	}
	_, err := apply("two", map[string]string{"a": "2"}, false)
	if err := refused("another manager's field without force", err, 409, metav1.StatusReasonConflict); err != nil {
		return err
	}
	if _, err := apply("two", map[string]string{"a": "2"}, true); err != nil {
		return err
	}
	result, err := apply("one", nil, false)
	if err != nil {
		return err
	}
	if err := expect("the data after their manager dropped its fields", result.Data, map[string]string{"a": "2"}); err != nil {
		return err
	}
	// What the library extracts from managedFields is what the manager said.
	extracted, err := applycorev1.ExtractConfigMap(result, "two")
	if err != nil {
		return err
	}
	return expect("what 'two' applied", extracted.Data, map[string]string{"a": "2"})
}
