// Command schema-gen writes the facts of every built-in Kubernetes type as one line-based text table: names, JSON and
// Go field names, protobuf numbers, shapes, list types, patch strategies, enums, formats, defaults. It holds no list of
// types: it walks what the published modules register and what their OpenAPI definitions say.
//
// Lines (tab-separated; see apiserver/machinery/build.rs, which reads them):
//
//	V version
//	T model-name go-type flags
//	F json-name go-name protobuf-number shape flags [key=value ...]
//	K group version kind model-name
//
// With -texts it writes what people read of them instead, and what only OpenAPI tells; texts are JSON strings:
//
//	T model-name
//	D text
//	U x-kubernetes-unions
//	F json-name text
//	L json-name list-type     of a member that is no list in JSON
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"

	"k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	discoveryv2 "k8s.io/api/apidiscovery/v2"
	discoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	imagepolicy "k8s.io/api/imagepolicy/v1alpha1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	apiversion "k8s.io/apimachinery/pkg/version"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

const version = "v1.36.3"

type modelNamer interface{ OpenAPIModelName() string }

type generator struct {
	definitions map[string]common.OpenAPIDefinition
	types       map[string]reflect.Type
	queue       []reflect.Type
	kinds       []string
}

// scalars are the types with a JSON form of their own; the walk ends at them.
var scalars = map[reflect.Type]string{
	reflect.TypeFor[metav1.Time]():                                  "time",
	reflect.TypeFor[metav1.MicroTime]():                             "microtime",
	reflect.TypeFor[metav1.Duration]():                              "duration",
	reflect.TypeFor[metav1.FieldsV1]():                              "fieldsv1",
	reflect.TypeFor[resource.Quantity]():                            "quantity",
	reflect.TypeFor[intstr.IntOrString]():                           "intstr",
	reflect.TypeFor[runtime.RawExtension]():                         "raw",
	reflect.TypeFor[apiextensionsv1.JSON]():                         "json",
	reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrBool]():        "schemaorbool",
	reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrArray]():       "schemaorarray",
	reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrStringArray](): "schemaorstrings",
}

func main() {
	g := &generator{types: map[string]reflect.Type{}}
	g.definitions = openapi.GetOpenAPIDefinitions(func(name string) spec.Ref {
		return spec.MustCreateRef(name)
	})
	g.roots()
	for len(g.queue) > 0 {
		next := g.queue[0]
		g.queue = g.queue[1:]
		g.fields(next, func(field) {})
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if len(os.Args) > 1 && os.Args[1] == "-texts" {
		g.texts(out)
		return
	}
	g.write(out)
}

// texts writes the descriptions of the types that the table names, and of the scalars among them.
func (g *generator) texts(out *bufio.Writer) {
	quoted := func(value any) string {
		text, err := json.Marshal(value)
		must(err)
		return string(text)
	}
	names := make([]string, 0, len(g.types)+len(scalars))
	for name := range g.types {
		names = append(names, name)
	}
	for t := range scalars {
		names = append(names, g.name(t))
	}
	sort.Strings(names)
	for _, name := range names {
		definition, has := g.definitions[name]
		if !has {
			continue
		}
		fmt.Fprintf(out, "T\t%s\n", name)
		if text := definition.Schema.Description; text != "" {
			fmt.Fprintf(out, "D\t%s\n", quoted(text))
		}
		if unions, ok := definition.Schema.Extensions["x-kubernetes-unions"]; ok {
			fmt.Fprintf(out, "U\t%s\n", quoted(unions))
		}
		properties := make([]string, 0, len(definition.Schema.Properties))
		for property := range definition.Schema.Properties {
			properties = append(properties, property)
		}
		sort.Strings(properties)
		for _, property := range properties {
			if text := definition.Schema.Properties[property].Description; text != "" {
				fmt.Fprintf(out, "F\t%s\t%s\n", property, quoted(text))
			}
			list, listed := definition.Schema.Properties[property].Extensions["x-kubernetes-list-type"].(string)
			if listed && definition.Schema.Properties[property].Type.Contains("string") {
				fmt.Fprintf(out, "L\t%s\t%s\n", property, list)
			}
		}
	}
}

func (g *generator) roots() {
	scheme := runtime.NewScheme()
	must(clientscheme.AddToScheme(scheme))
	must(apiextensionsv1.AddToScheme(scheme))
	must(apiregistrationv1.AddToScheme(scheme))
	must(v1.AddToScheme(scheme))
	must(admissionv1beta1.AddToScheme(scheme))
	must(imagepolicy.AddToScheme(scheme))
	must(discoveryv2.AddToScheme(scheme))
	must(discoveryv2beta1.AddToScheme(scheme))
	must(metav1.AddMetaToScheme(scheme))
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	unversioned := map[string]bool{}
	for _, kind := range []string{"ListOptions", "GetOptions", "DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions", "WatchEvent", "TableOptions"} {
		unversioned[kind] = true
	}
	for gvk, t := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		// Every group registers the option kinds; one entry under v1 (and meta.k8s.io/v1) stands for all.
		if unversioned[gvk.Kind] && t.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1" && gvk.Group != "" && gvk.Group != "meta.k8s.io" {
			continue
		}
		g.kinds = append(g.kinds, strings.Join([]string{gvk.Group, gvk.Version, gvk.Kind, g.name(t)}, "\t"))
		g.add(t)
	}
	for _, t := range []reflect.Type{
		reflect.TypeFor[metav1.ObjectMeta](), reflect.TypeFor[metav1.LabelSelector](), reflect.TypeFor[metav1.Condition](),
		reflect.TypeFor[apiversion.Info](),
	} {
		g.add(t)
	}
	sort.Strings(g.kinds)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// name is the OpenAPI model name; types that the definitions lack are named after their package.
func (g *generator) name(t reflect.Type) string {
	if m, ok := reflect.New(t).Interface().(modelNamer); ok {
		return m.OpenAPIModelName()
	}
	path := strings.Split(t.PkgPath(), "/")
	host := strings.Split(path[0], ".")
	for i, j := 0, len(host)-1; i < j; i, j = i+1, j-1 {
		host[i], host[j] = host[j], host[i]
	}
	return strings.Join(append(append(host, path[1:]...), t.Name()), ".")
}

func (g *generator) add(t reflect.Type) {
	name := g.name(t)
	if _, seen := g.types[name]; seen {
		return
	}
	g.types[name] = t
	g.queue = append(g.queue, t)
}

// field is one JSON member of a struct, inlined ones included.
type field struct {
	json, goName, shape string
	number              string
	flags               []string
	facts               []string
}

// fields visits the JSON members of a struct in the order that encoding/json writes them.
func (g *generator) fields(t reflect.Type, visit func(field)) {
	definition, has := g.definitions[g.name(t)]
	properties := map[string]spec.Schema{}
	required := map[string]bool{}
	if has {
		properties = definition.Schema.Properties
		for _, name := range definition.Schema.Required {
			required[name] = true
		}
	}
	g.members(t, "", properties, required, visit)
}

func (g *generator) members(t reflect.Type, via string, properties map[string]spec.Schema, required map[string]bool, visit func(field)) {
	for i := 0; i < t.NumField(); i++ {
		f := t.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		number := protobufNumber(f)
		if name == "" && (f.Anonymous || strings.Contains(options, "inline")) {
			inlined := f.Type
			if inlined.Kind() == reflect.Pointer {
				inlined = inlined.Elem()
			}
			g.add(inlined)
			step := f.Name + ":" + number + ":" + g.name(inlined)
			if via != "" {
				step = via + "/" + step
			}
			g.members(inlined, step, properties, required, visit)
			continue
		}
		if !tagged || name == "" {
			name = f.Name
		}
		property := properties[name]
		out := field{json: name, goName: f.Name, number: number, shape: g.shape(f.Type, &property)}
		if f.Type.Kind() == reflect.Pointer {
			out.flags = append(out.flags, "ptr")
		}
		for _, option := range strings.Split(options, ",") {
			if option == "omitempty" || option == "omitzero" {
				out.flags = append(out.flags, option)
			}
		}
		if required[name] {
			out.flags = append(out.flags, "required")
		}
		if mapType, ok := property.Extensions["x-kubernetes-map-type"].(string); ok {
			out.flags = append(out.flags, mapType)
		}
		if via != "" {
			out.facts = append(out.facts, "via="+via)
		}
		out.facts = append(out.facts, propertyFacts(f, property)...)
		visit(out)
	}
}

func protobufNumber(f reflect.StructField) string {
	parts := strings.Split(f.Tag.Get("protobuf"), ",")
	if len(parts) < 2 {
		return "0"
	}
	return parts[1]
}

func propertyFacts(f reflect.StructField, property spec.Schema) (facts []string) {
	if strategy := f.Tag.Get("patchStrategy"); strategy != "" {
		facts = append(facts, "strategy="+strategy)
	}
	if key := f.Tag.Get("patchMergeKey"); key != "" {
		facts = append(facts, "mergekey="+key)
	}
	if property.Format != "" {
		facts = append(facts, "format="+property.Format)
	}
	enums := property.Enum
	if property.Items != nil && property.Items.Schema != nil && len(property.Items.Schema.Enum) > 0 {
		enums = property.Items.Schema.Enum
	}
	if values := property.AdditionalProperties; values != nil && values.Schema != nil && len(values.Schema.Enum) > 0 {
		enums = values.Schema.Enum
	}
	if len(enums) > 0 {
		values := make([]string, len(enums))
		for i, value := range enums {
			values[i] = fmt.Sprint(value)
		}
		facts = append(facts, "enum="+strings.Join(values, "|"))
	}
	if property.Default != nil {
		value, err := json.Marshal(property.Default)
		must(err)
		facts = append(facts, "default="+string(value))
	}
	return facts
}

// shape writes a type: a scalar word, {model}, [element|list type] or <value>, then =go-type where it cannot be told.
func (g *generator) shape(t reflect.Type, property *spec.Schema) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if word, ok := scalars[t]; ok {
		if strings.HasPrefix(word, "schemaor") {
			g.add(reflect.TypeFor[apiextensionsv1.JSONSchemaProps]())
		}
		return word
	}
	switch t.Kind() {
	case reflect.String:
		return named(t, "string", "string")
	case reflect.Bool:
		return named(t, "bool", "bool")
	case reflect.Int32:
		return named(t, "int32", "int32")
	case reflect.Int64, reflect.Int:
		return named(t, "int64", "int64")
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return named(t, "int64", "int64")
	case reflect.Float64:
		return named(t, "float64", "float64")
	case reflect.Interface:
		return "json"
	case reflect.Struct:
		g.add(t)
		return "{" + g.name(t) + "}"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return named(t, "bytes", "[]uint8")
		}
		var items *spec.Schema
		if property != nil && property.Items != nil {
			items = property.Items.Schema
		}
		text := "[" + g.shape(t.Elem(), items) + listType(t, property) + "]"
		return named(t, text, "[]"+t.Elem().String())
	case reflect.Map:
		var values *spec.Schema
		if property != nil && property.AdditionalProperties != nil {
			values = property.AdditionalProperties.Schema
		}
		return named(t, "<"+g.shape(t.Elem(), values)+">", "map[string]"+t.Elem().String())
	}
	must(fmt.Errorf("no shape for %s", t))
	return ""
}

func listType(t reflect.Type, property *spec.Schema) (text string) {
	if _, message := reflect.PointerTo(t).MethodByName("MarshalToSizedBuffer"); message {
		// A few named slices are messages of their own in protobuf.
		text += "|wrapped"
	}
	if property == nil {
		return text
	}
	kind, _ := property.Extensions["x-kubernetes-list-type"].(string)
	if kind == "" {
		return text
	}
	text += "|" + kind
	if keys, ok := property.Extensions["x-kubernetes-list-map-keys"].([]interface{}); ok {
		names := make([]string, len(keys))
		for i, key := range keys {
			names[i] = key.(string)
		}
		text += ":" + strings.Join(names, ",")
	}
	return text
}

func named(t reflect.Type, text, derived string) string {
	if t.String() == derived {
		return text
	}
	return text + "=" + t.String()
}

func (g *generator) write(out *bufio.Writer) {
	fmt.Fprintf(out, "V\t%s\n", version)
	names := make([]string, 0, len(g.types))
	for name := range g.types {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		t := g.types[name]
		flags := "-"
		if g.definitions[name].Schema.Extensions["x-kubernetes-map-type"] == "atomic" {
			flags = "atomic"
		}
		fmt.Fprintf(out, "T\t%s\t%s\t%s\n", name, t, flags)
		if t.Kind() != reflect.Struct {
			must(fmt.Errorf("%s is not a struct", name))
		}
		g.fields(t, func(f field) {
			flags := "-"
			if len(f.flags) > 0 {
				flags = strings.Join(f.flags, ",")
			}
			columns := append([]string{"F", f.json, f.goName, f.number, f.shape, flags}, f.facts...)
			fmt.Fprintln(out, strings.Join(columns, "\t"))
		})
	}
	for _, kind := range g.kinds {
		fmt.Fprintf(out, "K\t%s\n", kind)
	}
}
