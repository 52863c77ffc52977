"""The Python client library against a cluster: see ../README.md for what each program does."""

import json
import logging
import os
import sys
import threading
import time
import uuid

import yaml
from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import portforward, stream

IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
NAMESPACE = f"client-python-{uuid.uuid4().hex[:6]}"
DEADLINE = 60


def expect(got, wanted, what):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, expected {wanted!r}")


def refused(code, reason, call, *args, **kwargs):
    """The call fails with this code and reason; returns the Status."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        status = json.loads(error.body)
        expect((error.status, status["kind"], status["reason"]), (code, "Status", reason), f"the answer {error.body}")
        return status
    raise AssertionError(f"{call.__name__} succeeded, expected {code} {reason}")


def until(what, condition):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"not so after {DEADLINE} s: {what}")


def config_map(name, data, **labels):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)


def version(core):
    info = client.VersionApi(core.api_client).get_code()
    expect(info.major, "1", "the server's major version")
    groups = {group.name for group in client.ApisApi(core.api_client).get_api_versions().groups}
    for name in ("apps", "batch", "rbac.authorization.k8s.io", "apiextensions.k8s.io"):
        assert name in groups, f"the group {name} is missing in {sorted(groups)}"


def crud(core):
    made = core.create_namespaced_config_map(NAMESPACE, config_map("crud", {"a": "1"}, kind="crud"))
    assert made.metadata.uid and made.metadata.resource_version and made.metadata.creation_timestamp
    expect(core.read_namespaced_config_map("crud", NAMESPACE).to_dict(), made.to_dict(), "what is read after it was created")
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, config_map("crud", {}))
    status = refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, config_map("No_Name", {}))
    expect([cause["field"] for cause in status["details"]["causes"]], ["metadata.name"], "the causes")

    made.data["a"] = "2"
    updated = core.replace_namespaced_config_map("crud", NAMESPACE, made)
    expect(updated.data, {"a": "2"}, "the data after an update")
    refused(409, "Conflict", core.replace_namespaced_config_map, "crud", NAMESPACE, made)
    merged = core.patch_namespaced_config_map("crud", NAMESPACE, {"data": {"a": None, "b": "3"}})
    expect(merged.data, {"b": "3"}, "the data after a strategic merge patch")
    patched = core.patch_namespaced_config_map("crud", NAMESPACE, [{"op": "add", "path": "/data/c", "value": "4"}])
    expect(patched.data, {"b": "3", "c": "4"}, "the data after a JSON patch")
    core.create_namespaced_config_map(NAMESPACE, config_map("other", {}, kind="crud"), dry_run="All")
    listed = core.list_namespaced_config_map(NAMESPACE, label_selector="kind=crud")
    expect([item.metadata.name for item in listed.items], ["crud"], "the list by label")
    core.delete_namespaced_config_map("crud", NAMESPACE)
    refused(404, "NotFound", core.read_namespaced_config_map, "crud", NAMESPACE)


def pages(core):
    for number in range(5):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{number}", {}, kind="page"))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="kind=page", limit=2, _continue=token)
        assert len(page.items) <= 2, f"{len(page.items)} items in a page of 2"
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    expect(names, [f"page-{number}" for number in range(5)], "the items of all pages")
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="kind=page")
    expect(core.list_namespaced_config_map(NAMESPACE, label_selector="kind=page").items, [], "what deletecollection left")


def watching(core):
    begin = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

    def write():
        core.create_namespaced_config_map(NAMESPACE, config_map("seen", {"a": "1"}, kind="watch"))
        core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"a": "2"}})
        core.delete_namespaced_config_map("seen", NAMESPACE)

    threading.Thread(target=write, daemon=True).start()
    seen, watcher = [], watch.Watch()
    for event in watcher.stream(core.list_namespaced_config_map, NAMESPACE, label_selector="kind=watch", resource_version=begin,
                                timeout_seconds=DEADLINE):
        seen.append((event["type"], event["object"].data["a"]))
        if event["type"] == "DELETED":
            watcher.stop()
    expect(seen, [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")], "the events")


def informer(core):
    core.create_namespaced_config_map(NAMESPACE, config_map("before", {}, kind="informer"))
    events = []
    shared = SharedInformer(core.list_namespaced_config_map, namespace=NAMESPACE, label_selector="kind=informer")
    for kind in ("ADDED", "MODIFIED", "DELETED"):
        shared.add_event_handler(kind, lambda item, kind=kind: events.append((kind, item.metadata.name)))
    shared.start()
    until("the informer has the object that was there", lambda: ("ADDED", "before") in events)
    core.create_namespaced_config_map(NAMESPACE, config_map("after", {}, kind="informer"))
    core.patch_namespaced_config_map("before", NAMESPACE, {"data": {"x": "y"}})
    core.delete_namespaced_config_map("after", NAMESPACE)
    wanted = {("ADDED", "before"), ("ADDED", "after"), ("MODIFIED", "before"), ("DELETED", "after")}
    until(f"the informer tells {wanted}, it told {events}", lambda: wanted == set(events))
    expect([item.data for item in shared.cache.list()], [{"x": "y"}], "the informer's cache")
    logging.disable(logging.ERROR)  # the library closes its connection under its own reader, and logs that
    shared.stop()
    logging.disable(logging.NOTSET)


def applying(core):
    """Server-side apply through the dynamic client."""
    maps = dynamic.DynamicClient(core.api_client).resources.get(api_version="v1", kind="ConfigMap")

    def apply(manager, data, **options):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, **({"data": data} if data else {})}
        return maps.server_side_apply(body=body, namespace=NAMESPACE, field_manager=manager, **options)

    apply("one", {"a": "1", "b": "1"})
    try:
        apply("two", {"a": "2"})
        raise AssertionError("a field of another manager was taken without force")
    except dynamic.exceptions.ConflictError as error:
        causes = json.loads(error.body)["details"]["causes"]
        expect([(cause["reason"], cause["field"]) for cause in causes], [("FieldManagerConflict", ".data.a")], "the conflicts")
    apply("two", {"a": "2"}, force_conflicts=True)
    result = apply("one", {})
    expect(result.to_dict()["data"], {"a": "2"}, "the data after their manager dropped its fields")
    managers = {entry["manager"]: entry["operation"] for entry in result.to_dict()["metadata"]["managedFields"]}
    expect(managers, {"two": "Apply"}, "the managers")


def custom_resource(core):
    group = f"{NAMESPACE}.example.com"
    definitions = client.ApiextensionsV1Api(core.api_client)
    definition = yaml.safe_load(f"""
        apiVersion: apiextensions.k8s.io/v1
        kind: CustomResourceDefinition
        metadata: {{name: widgets.{group}}}
        spec:
          group: {group}
          scope: Namespaced
          names: {{plural: widgets, singular: widget, kind: Widget}}
          versions:
          - name: v1
            served: true
            storage: true
            schema:
              openAPIV3Schema:
                type: object
                properties:
                  spec:
                    type: object
                    properties:
                      size: {{type: integer, minimum: 1}}
                      color: {{type: string, default: red}}
    """)
    definitions.create_custom_resource_definition(definition)
    try:
        def established():
            status = definitions.read_custom_resource_definition(f"widgets.{group}").status
            return any(c.type == "Established" and c.status == "True" for c in status.conditions or [])

        until("the definition is established", established)
        api = client.CustomObjectsApi(core.api_client)
        widget = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1, "unknown": 1}}
        made = api.create_namespaced_custom_object(group, "v1", NAMESPACE, "widgets", widget)
        expect(made["spec"], {"size": 1, "color": "red"}, "the widget, pruned and defaulted")
        widget["spec"], widget["metadata"]["name"] = {"size": 0}, "x"
        refused(422, "Invalid", api.create_namespaced_custom_object, group, "v1", NAMESPACE, "widgets", widget)
        expect(len(api.list_namespaced_custom_object(group, "v1", NAMESPACE, "widgets")["items"]), 1, "the number of widgets")
    finally:
        definitions.delete_custom_resource_definition(f"widgets.{group}")


def pod(core):
    container = client.V1Container(name="main", image=IMAGE, args=["netexec", "--http-port=8080"])
    spec = client.V1PodSpec(containers=[container], termination_grace_period_seconds=0)
    core.create_namespaced_pod(NAMESPACE, client.V1Pod(metadata=client.V1ObjectMeta(name="pod"), spec=spec))
    watcher = watch.Watch()
    for event in watcher.stream(core.list_namespaced_pod, NAMESPACE, field_selector="metadata.name=pod", timeout_seconds=DEADLINE):
        if event["object"].status.phase == "Running":
            watcher.stop()
    expect(core.read_namespaced_pod("pod", NAMESPACE).status.phase, "Running", "the pod's phase")


def executing(core):
    command = ["sh", "-c", "read line; echo out $line; echo err >&2; exit 3"]
    session = stream(core.connect_get_namespaced_pod_exec, "pod", NAMESPACE, command=command, stdin=True, stdout=True, stderr=True,
                     tty=False, _preload_content=False)
    session.write_stdin("hello\n")
    session.run_forever(timeout=DEADLINE)
    expect(session.read_stdout(timeout=1), "out hello\n", "stdout of exec")
    expect(session.read_stderr(timeout=1), "err\n", "stderr of exec")
    expect(session.returncode, 3, "the exit code of exec")
    large = stream(core.connect_get_namespaced_pod_exec, "pod", NAMESPACE, command=["head", "-c", "3000000", "/dev/zero"], stdin=False,
                   stdout=True, stderr=True, tty=False, binary=True)
    expect(len(large), 3000000, "the length of what exec printed")


def forwarding(core):
    forward = portforward(core.connect_get_namespaced_pod_portforward, "pod", NAMESPACE, ports="8080")
    socket = forward.socket(8080)
    socket.setblocking(True)
    socket.settimeout(DEADLINE)
    socket.sendall(b"GET /echo?msg=through HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
    answer = b""
    while chunk := socket.recv(4096):
        answer += chunk
    socket.close()
    assert answer.startswith(b"HTTP/1.1 200 OK") and answer.endswith(b"through"), f"the forwarded port answered {answer!r}"
    expect(forward.error(8080), None, "the error of the forwarded port")


def logs(core):
    def read(**options):
        # With _preload_content the library of this release returns the printed form of bytes.
        return core.read_namespaced_pod_log("pod", NAMESPACE, _preload_content=False, **options).data.decode()

    text = until("the log tells of the request", lambda: (text := read()).count("Started") == 2 and "GET /echo" in text and text)
    assert "Started HTTP server on port 8080" in text, f"the log is {text!r}"
    one = read(tail_lines=1, timestamps=True)
    expect(one.partition(" ")[2], text.splitlines(keepends=True)[-1], "the last line")
    expect(one.count("\n"), 1, "the number of lines asked for")
    followed = next(watch.Watch().stream(core.read_namespaced_pod_log, "pod", NAMESPACE, follow=True))
    expect(followed, text.split("\n")[0], "the first line that is followed")


def election(core):
    """Two candidates; the second leads after the first has gone away without a word."""
    leading = []

    def run(identity, lock):
        settings = electionconfig.Config(lock, lease_duration=3, renew_deadline=2, retry_period=1,
                                         onstarted_leading=lambda: leading.append(identity), onstopped_leading=lambda: None)
        threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True).start()

    class Mortal(ConfigMapLock):
        alive = True

        def update(self, name, namespace, record):
            return self.alive and super().update(name, namespace, record)

    first = Mortal("election", NAMESPACE, "first")
    run("first", first)
    until("the first leads", lambda: leading == ["first"])
    run("second", ConfigMapLock("election", NAMESPACE, "second"))
    time.sleep(4)  # longer than a lease: the first renews it
    expect(leading, ["first"], "who leads while the first is alive")
    first.alive = False
    until("the second leads", lambda: leading == ["first", "second"])


def main():
    config.load_kube_config(os.environ["KUBECONFIG"])
    core, begun = client.CoreV1Api(), time.monotonic()
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    steps = [version, crud, pages, watching, informer, applying, custom_resource, pod, executing, forwarding, logs, election]
    try:
        for step in steps:
            try:
                step(core)
            except Exception as error:
                print(f"python: {step.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
                raise
            print(f"ok {step.__name__}", flush=True)
    finally:
        core.delete_namespace(NAMESPACE)
    print(f"{len(steps)} parts passed in {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
