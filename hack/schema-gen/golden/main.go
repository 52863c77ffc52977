// Command golden answers cases with upstream's own packages: each input line is a JSON object, each output line the
// same object with `expected` set. Kinds of cases:
//
//	{"apiVersion", "kind", "body"}           strict decoding and encoding
//	{"apiVersion", "kind", "body", "patch"}  a strategic merge patch of body
//	{"apiVersion", "kind", "ops"}            a sequence of server-side applies and updates
//
// Run as: go run ./golden < ../../apiserver/machinery/tests/golden/decode.jsonl
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	kjson "sigs.k8s.io/json"
)

type operation struct {
	Op      string          `json:"op"`
	Manager string          `json:"manager"`
	Force   bool            `json:"force"`
	Obj     json.RawMessage `json:"obj"`
}

type testCase struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Body       string          `json:"body,omitempty"`
	Patch      json.RawMessage `json:"patch,omitempty"`
	Ops        []operation     `json:"ops,omitempty"`
	Expected   any             `json:"expected"`
}

// outcome is what one step comes to: an object or an error, and strict decoding errors.
type outcome struct {
	Object any      `json:"object,omitempty"`
	Error  string   `json:"error,omitempty"`
	Strict []string `json:"strict,omitempty"`
}

func main() {
	decoder := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for decoder.More() {
		var c testCase
		must(decoder.Decode(&c))
		gv, err := schema.ParseGroupVersion(c.APIVersion)
		must(err)
		gvk := gv.WithKind(c.Kind)
		switch {
		case c.Ops != nil:
			c.Expected = apply(gvk, c.Ops)
		case c.Patch != nil:
			c.Expected = strategic(gvk, c)
		default:
			c.Expected = decode(gvk, c.Body)
		}
		must(out.Encode(c))
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func typed(gvk schema.GroupVersionKind, body []byte) runtime.Object {
	object, err := scheme.Scheme.New(gvk)
	must(err)
	if body != nil {
		must(json.Unmarshal(body, object))
	}
	object.GetObjectKind().SetGroupVersionKind(gvk)
	return object
}

func raw(value any) any {
	body, err := json.Marshal(value)
	must(err)
	return json.RawMessage(body)
}

func decode(gvk schema.GroupVersionKind, body string) outcome {
	object, err := scheme.Scheme.New(gvk)
	must(err)
	strict, err := kjson.UnmarshalStrict([]byte(body), object)
	if err != nil {
		return outcome{Error: err.Error()}
	}
	result := outcome{Object: raw(object)}
	for _, fault := range strict {
		result.Strict = append(result.Strict, fault.Error())
	}
	return result
}

func strategic(gvk schema.GroupVersionKind, c testCase) outcome {
	object, err := scheme.Scheme.New(gvk)
	must(err)
	patched, err := strategicpatch.StrategicMergePatch([]byte(c.Body), c.Patch, object)
	if err != nil {
		return outcome{Error: err.Error()}
	}
	return outcome{Object: json.RawMessage(patched)}
}

type converter struct{}

func (converter) Convert(in, out, context interface{}) error { return fmt.Errorf("not used") }

func (converter) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	if u, ok := in.(*unstructured.Unstructured); ok {
		body, err := json.Marshal(u.Object)
		return typed(u.GroupVersionKind(), body), err
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(in)
	in.GetObjectKind().SetGroupVersionKind(kinds[0])
	return in, err
}

func (converter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

func apply(gvk schema.GroupVersionKind, ops []operation) (results []outcome) {
	types := applyconfigurations.NewTypeConverter(scheme.Scheme)
	fields, err := managedfields.NewDefaultFieldManager(types, converter{}, noDefaults{}, scheme.Scheme, gvk, gvk.GroupVersion(), "", nil)
	must(err)
	live := typed(gvk, nil)
	for _, op := range ops {
		object, err := step(fields, gvk, live, op)
		if err != nil {
			results = append(results, outcome{Error: err.Error()})
			continue
		}
		if u, ok := object.(*unstructured.Unstructured); ok {
			object = typed(gvk, raw(u.Object).(json.RawMessage))
		}
		accessor, err := meta.Accessor(object)
		must(err)
		entries := accessor.GetManagedFields()
		for i := range entries {
			at := metav1.Unix(1767225600, 0)
			entries[i].Time = &at
		}
		accessor.SetManagedFields(entries)
		accessor.SetUID("u")
		live = object
		results = append(results, outcome{Object: raw(live)})
	}
	return results
}

func step(fields *managedfields.FieldManager, gvk schema.GroupVersionKind, live runtime.Object, op operation) (runtime.Object, error) {
	if op.Op == "apply" {
		u := &unstructured.Unstructured{}
		must(json.Unmarshal(op.Obj, &u.Object))
		return fields.Apply(live, u, op.Manager, op.Force)
	}
	body, err := json.Marshal(live)
	must(err)
	body, err = jsonpatch.MergePatch(body, op.Obj)
	must(err)
	return fields.Update(live, typed(gvk, body), op.Manager)
}
