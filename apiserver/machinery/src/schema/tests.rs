use super::*;

fn lookup(group: &'static str, version: &'static str, kind: &'static str) -> TypeRef {
    Schema::kubernetes().lookup(&GroupVersionKind::from_static(group, version, kind)).unwrap()
}

#[test]
fn every_kind_is_found_and_has_type_meta_first() {
    let schema = Schema::kubernetes();
    let mut count = 0;
    for (gvk, ty) in schema.kinds() {
        assert_eq!(schema.lookup(&gvk).unwrap().name(), ty.name());
        assert_eq!(schema.type_named(ty.name()).unwrap().name(), ty.name());
        if gvk.kind != "WatchEvent" {
            let first: Vec<&str> = ty.fields().take(2).map(Field::json).collect();
            assert_eq!(first, ["kind", "apiVersion"], "{gvk}");
        }
        count += 1;
    }
    assert!(count > 300, "{count}");
}

#[test]
fn facts_of_a_service_are_what_upstream_declares() {
    let service = lookup("", "v1", "Service");
    assert_eq!(service.name(), "io.k8s.api.core.v1.Service");
    let Shape::Struct(spec) = service.field("spec").unwrap().shape() else { panic!() };
    assert_eq!((spec.go_name(), spec.bare_name()), ("v1.ServiceSpec", "ServiceSpec"));
    let ports = spec.field("ports").unwrap();
    assert_eq!((ports.number(), ports.patch_strategy(), ports.patch_merge_key()), (1, "merge", "port"));
    assert_eq!(ports.go_type(), "[]v1.ServicePort");
    let Shape::List(list) = ports.shape() else { panic!() };
    assert_eq!(list.list_type(), ListType::Map);
    assert_eq!(list.map_keys().collect::<Vec<_>>(), ["port", "protocol"]);
    let Shape::Struct(port) = list.element().shape() else { panic!() };
    assert_eq!(port.field("protocol").unwrap().default_json(), "\"TCP\"");
    assert!(spec.field("selector").unwrap().is_atomic());
    assert_eq!(spec.field("type").unwrap().enums().count(), 4);
}

#[test]
fn embedded_structs_are_flattened_and_remembered() {
    let pod = Schema::kubernetes().type_named("io.k8s.api.core.v1.Volume").unwrap();
    let field = pod.field("hostPath").unwrap();
    let steps: Vec<_> = field.embedded().iter().map(|(go, number, ty)| (*go, *number, ty.bare_name())).collect();
    assert_eq!(steps, [("VolumeSource", 2, "VolumeSource")]);
    assert!(field.is_pointer() && field.omitempty());
}

#[test]
fn options_answer_in_every_group() {
    let options = lookup("apps", "v1", "DeleteOptions");
    assert_eq!(options.name(), "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    assert!(Schema::kubernetes().lookup(&GroupVersionKind::from_static("apps", "v1", "Nope")).is_none());
}
