package clients;

import io.kubernetes.client.Exec;
import io.kubernetes.client.PodLogs;
import io.kubernetes.client.PortForward;
import io.kubernetes.client.custom.V1Patch;
import io.kubernetes.client.informer.ResourceEventHandler;
import io.kubernetes.client.informer.SharedInformerFactory;
import io.kubernetes.client.openapi.ApiClient;
import io.kubernetes.client.openapi.ApiException;
import io.kubernetes.client.openapi.JSON;
import io.kubernetes.client.openapi.apis.CoreV1Api;
import io.kubernetes.client.openapi.apis.VersionApi;
import io.kubernetes.client.openapi.models.V1ConfigMap;
import io.kubernetes.client.openapi.models.V1ConfigMapList;
import io.kubernetes.client.openapi.models.V1Container;
import io.kubernetes.client.openapi.models.V1Namespace;
import io.kubernetes.client.openapi.models.V1ObjectMeta;
import io.kubernetes.client.openapi.models.V1Pod;
import io.kubernetes.client.openapi.models.V1PodSpec;
import io.kubernetes.client.openapi.models.V1Status;
import io.kubernetes.client.util.Config;
import io.kubernetes.client.util.PatchUtils;
import io.kubernetes.client.util.ServerSideApply;
import io.kubernetes.client.util.Watch;
import io.kubernetes.client.util.generic.GenericKubernetesApi;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesApi;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesObject;
import io.kubernetes.client.util.generic.options.ListOptions;
import io.kubernetes.client.util.generic.options.PatchOptions;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;

/** The Java client library against a cluster: see ../README.md for what each program does. */
public class Main {
  static final String IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
  static final long DEADLINE = 60;
  static final String NAMESPACE = "client-java-" + UUID.randomUUID().toString().substring(0, 6);

  static ApiClient client;
  static CoreV1Api core;

  interface Part {
    void run() throws Exception;
  }

  static void expect(String what, Object got, Object wanted) {
    if (!Objects.equals(got, wanted)) throw new AssertionError(what + ": got " + got + ", expected " + wanted);
  }

  /** The call fails with this code and reason. */
  static void refused(String what, int code, String reason, Callable<?> call) throws Exception {
    try {
      call.call();
    } catch (ApiException error) {
      V1Status status = (V1Status) JSON.deserialize(error.getResponseBody(), V1Status.class);
      expect(what, error.getCode() + " " + status.getKind() + " " + status.getReason(), code + " Status " + reason);
      return;
    }
    throw new AssertionError(what + " succeeded, expected " + code + " " + reason);
  }

  static void until(String what, Callable<Boolean> condition) throws Exception {
    for (long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(DEADLINE); System.nanoTime() < end; Thread.sleep(100)) {
      if (condition.call()) return;
    }
    throw new AssertionError("not so after " + DEADLINE + " s: " + what);
  }

  static V1ConfigMap configMap(String name, Map<String, String> data, String kind) {
    return new V1ConfigMap().metadata(new V1ObjectMeta().name(name).namespace(NAMESPACE).labels(Map.of("kind", kind))).data(data);
  }

  static V1ConfigMap patch(String name, String format, String body) throws ApiException {
    return PatchUtils.patch(V1ConfigMap.class, () -> core.patchNamespacedConfigMap(name, NAMESPACE, new V1Patch(body)).buildCall(null), format, client);
  }

  static void version() throws Exception {
    expect("the major version", new VersionApi(client).getCode().execute().getMajor(), "1");
  }

  static void crud() throws Exception {
    V1ConfigMap made = core.createNamespacedConfigMap(NAMESPACE, configMap("crud", Map.of("a", "1"), "crud")).execute();
    V1ConfigMap read = core.readNamespacedConfigMap("crud", NAMESPACE).execute();
    expect("what is read after it was created", read, made);
    refused("create again", 409, "AlreadyExists", () -> core.createNamespacedConfigMap(NAMESPACE, configMap("crud", null, "crud")).execute());
    refused("create with a bad name", 422, "Invalid", () -> core.createNamespacedConfigMap(NAMESPACE, configMap("No_Name", null, "crud")).execute());
    read.setData(Map.of("a", "2"));
    expect("the data after an update", core.replaceNamespacedConfigMap("crud", NAMESPACE, read).execute().getData(), Map.of("a", "2"));
    refused("update of an old revision", 409, "Conflict", () -> core.replaceNamespacedConfigMap("crud", NAMESPACE, read).execute());
    expect("the data after a merge patch", patch("crud", V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, "{\"data\":{\"a\":null,\"b\":\"3\"}}").getData(), Map.of("b", "3"));
    expect("the data after a strategic merge patch", patch("crud", V1Patch.PATCH_FORMAT_STRATEGIC_MERGE_PATCH, "{\"data\":{\"c\":\"4\"}}").getData(), Map.of("b", "3", "c", "4"));
    expect("the data after a JSON patch", patch("crud", V1Patch.PATCH_FORMAT_JSON_PATCH, "[{\"op\":\"remove\",\"path\":\"/data/b\"}]").getData(), Map.of("c", "4"));
    core.createNamespacedConfigMap(NAMESPACE, configMap("other", null, "crud")).dryRun("All").execute();
    List<V1ConfigMap> list = core.listNamespacedConfigMap(NAMESPACE).labelSelector("kind=crud").execute().getItems();
    expect("the list by label", list.stream().map(item -> item.getMetadata().getName()).toList(), List.of("crud"));
    core.deleteNamespacedConfigMap("crud", NAMESPACE).execute();
    refused("read after delete", 404, "NotFound", () -> core.readNamespacedConfigMap("crud", NAMESPACE).execute());
  }

  /** The client that knows no types. */
  static void dynamic() throws Exception {
    DynamicKubernetesApi deployments = new DynamicKubernetesApi("apps", "v1", "deployments", client);
    String labels = "{\"app\":\"dynamic\"}";
    String text = "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"dynamic\",\"namespace\":\"" + NAMESPACE + "\"},"
        + "\"spec\":{\"replicas\":0,\"selector\":{\"matchLabels\":" + labels + "},\"template\":{\"metadata\":{\"labels\":" + labels + "},"
        + "\"spec\":{\"containers\":[{\"name\":\"main\",\"image\":\"" + IMAGE + "\"}]}}}}";
    DynamicKubernetesObject made = deployments.create(new DynamicKubernetesObject(com.google.gson.JsonParser.parseString(text).getAsJsonObject())).throwsApiException().getObject();
    expect("the default", made.getRaw().getAsJsonObject("spec").getAsJsonObject("template").getAsJsonObject("spec").get("restartPolicy").getAsString(), "Always");
    deployments.delete(NAMESPACE, "dynamic").throwsApiException();
  }

  static void write(String name, String kind) throws ApiException {
    core.createNamespacedConfigMap(NAMESPACE, configMap(name, Map.of("a", "1"), kind)).execute();
    patch(name, V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, "{\"data\":{\"a\":\"2\"}}");
    core.deleteNamespacedConfigMap(name, NAMESPACE).execute();
  }

  static void watching() throws Exception {
    String begin = core.listNamespacedConfigMap(NAMESPACE).execute().getMetadata().getResourceVersion();
    write("seen", "watch");
    List<String> seen = new ArrayList<>();
    var call = core.listNamespacedConfigMap(NAMESPACE).watch(true).resourceVersion(begin).labelSelector("kind=watch").buildCall(null);
    try (Watch<V1ConfigMap> watch = Watch.createWatch(client, call, new com.google.gson.reflect.TypeToken<Watch.Response<V1ConfigMap>>() {}.getType())) {
      while (seen.size() < 3 && watch.hasNext()) {
        var event = watch.next();
        seen.add(event.type + " " + event.object.getData().get("a"));
      }
    }
    expect("the events", seen, List.of("ADDED 1", "MODIFIED 2", "DELETED 2"));
  }

  static GenericKubernetesApi<V1ConfigMap, V1ConfigMapList> configMaps() {
    return new GenericKubernetesApi<>(V1ConfigMap.class, V1ConfigMapList.class, "", "v1", "configmaps", client);
  }

  static void informer() throws Exception {
    core.createNamespacedConfigMap(NAMESPACE, configMap("before", null, "informer")).execute();
    SharedInformerFactory factory = new SharedInformerFactory(client);
    var informer = factory.sharedIndexInformerFor(configMaps(), V1ConfigMap.class, 0, NAMESPACE);
    Set<String> told = ConcurrentHashMap.newKeySet();
    informer.addEventHandler(new ResourceEventHandler<V1ConfigMap>() {
      @Override public void onAdd(V1ConfigMap map) { told.add("add " + map.getMetadata().getName()); }
      @Override public void onUpdate(V1ConfigMap old, V1ConfigMap map) { told.add("update " + map.getMetadata().getName()); }
      @Override public void onDelete(V1ConfigMap map, boolean unknown) { told.add("delete " + map.getMetadata().getName()); }
    });
    factory.startAllRegisteredInformers();
    until("the informer is in step", informer::hasSynced);
    write("after", "informer");
    Set<String> wanted = Set.of("add before", "add after", "update after", "delete after");
    until("the informer tells " + wanted + ", it told " + told, () -> told.containsAll(wanted));
    expect("the cached object", informer.getIndexer().getByKey(NAMESPACE + "/before").getMetadata().getName(), "before");
    factory.stopAllRegisteredInformers();
  }

  /** Applies as text: a typed object carries empty maps, and whoever applies those owns them. */
  static DynamicKubernetesObject apply(String manager, String data, boolean force) throws ApiException {
    String text = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"applied\"}" + data + "}";
    PatchOptions options = new PatchOptions();
    options.setFieldManager(manager);
    options.setForce(force);
    var maps = new DynamicKubernetesApi("", "v1", "configmaps", client);
    return maps.patch(NAMESPACE, "applied", V1Patch.PATCH_FORMAT_APPLY_YAML, new V1Patch(text), options).throwsApiException().getObject();
  }

  static void applying() throws Exception {
    apply("one", ",\"data\":{\"a\":\"1\",\"b\":\"1\"}", false);
    try {
      apply("two", ",\"data\":{\"a\":\"2\"}", false);
      throw new AssertionError("a field of another manager was taken without force");
    } catch (ApiException error) {
      expect("the code of a conflict", error.getCode(), 409);
    }
    apply("two", ",\"data\":{\"a\":\"2\"}", true);
    DynamicKubernetesObject result = apply("one", "", false);
    expect("the data after their manager dropped its fields", result.getRaw().get("data").toString(), "{\"a\":\"2\"}");
    expect("the managers", result.getMetadata().getManagedFields().stream().map(entry -> entry.getManager() + " " + entry.getOperation()).toList(), List.of("two Apply"));
    // The library's own form of it, with a typed object.
    V1ConfigMap typed = new V1ConfigMap().apiVersion("v1").kind("ConfigMap").metadata(new V1ObjectMeta().name("typed").namespace(NAMESPACE)).data(Map.of("a", "1"));
    expect("the data of a typed object", ServerSideApply.apply(configMaps(), typed, "one", false).getData(), Map.of("a", "1"));
  }

  static void pages() throws Exception {
    for (int number = 0; number < 5; number++) core.createNamespacedConfigMap(NAMESPACE, configMap("page-" + number, null, "page")).execute();
    List<String> names = new ArrayList<>();
    String token = null;
    do {
      ListOptions options = new ListOptions();
      options.setLimit(2);
      options.setContinue(token);
      options.setLabelSelector("kind=page");
      V1ConfigMapList page = configMaps().list(NAMESPACE, options).throwsApiException().getObject();
      page.getItems().forEach(item -> names.add(item.getMetadata().getName()));
      token = page.getMetadata().getContinue();
    } while (token != null && !token.isEmpty());
    expect("the items of all pages", names, List.of("page-0", "page-1", "page-2", "page-3", "page-4"));
  }

  static void pod() throws Exception {
    V1Container container = new V1Container().name("main").image(IMAGE).args(List.of("netexec", "--http-port=8080"));
    V1PodSpec spec = new V1PodSpec().containers(List.of(container)).terminationGracePeriodSeconds(0L);
    core.createNamespacedPod(NAMESPACE, new V1Pod().metadata(new V1ObjectMeta().name("pod")).spec(spec)).execute();
    until("the pod runs", () -> "Running".equals(core.readNamespacedPod("pod", NAMESPACE).execute().getStatus().getPhase()));
  }

  /** The library answers the server's close on a connection that may be gone by then, and would print that. */
  static Exec exec() {
    Exec exec = new Exec(client);
    exec.setOnUnhandledError(error -> {});
    return exec;
  }

  static void executing() throws Exception {
    Process process = exec().exec(NAMESPACE, "pod", new String[] {"sh", "-c", "read line; echo out $line; echo err >&2; exit 3"}, true, false);
    // The library hands out no stream of a connection that has ended.
    var out = process.getInputStream();
    var fault = process.getErrorStream();
    process.getOutputStream().write("hello\n".getBytes(StandardCharsets.UTF_8));
    process.getOutputStream().flush();
    expect("stdout of exec", new String(out.readAllBytes(), StandardCharsets.UTF_8), "out hello\n");
    expect("stderr of exec", new String(fault.readAllBytes(), StandardCharsets.UTF_8), "err\n");
    expect("whether the command ended", process.waitFor(DEADLINE, TimeUnit.SECONDS), true);
    expect("the exit code of exec", process.exitValue(), 3);
    process.destroy();
    Process large = exec().exec(NAMESPACE, "pod", new String[] {"head", "-c", "3000000", "/dev/zero"}, false, false);
    expect("the length of what exec printed", large.getInputStream().readAllBytes().length, 3_000_000);
    large.destroy();
  }

  static void forwarding() throws Exception {
    var forward = new PortForward(client).forward(NAMESPACE, "pod", List.of(8080));
    var out = forward.getOutboundStream(8080);
    out.write("GET /echo?msg=through HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n".getBytes(StandardCharsets.UTF_8));
    out.flush();
    // The stream does not end with the pod's side: the answer's length tells where it does.
    var in = forward.getInputStream(8080);
    StringBuilder answer = new StringBuilder();
    while (!answer.toString().endsWith("through")) {
      int next = in.read();
      if (next < 0) break;
      answer.append((char) next);
    }
    expect("the answer of the forwarded port", answer.toString().startsWith("HTTP/1.1 200 OK") && answer.toString().endsWith("through"), true);
    forward.close();
  }

  static void logs() throws Exception {
    until("the log tells of the request", () -> {
      String text = core.readNamespacedPodLog("pod", NAMESPACE).execute();
      return text != null && text.split("Started").length == 3 && text.contains("GET /echo");
    });
    String text = core.readNamespacedPodLog("pod", NAMESPACE).execute();
    String last = core.readNamespacedPodLog("pod", NAMESPACE).tailLines(1).execute();
    expect("whether the last line is the log's end", text.endsWith(last) && last.indexOf('\n') == last.length() - 1, true);
    try (var lines = new BufferedReader(new InputStreamReader(new PodLogs(client).streamNamespacedPodLog(NAMESPACE, "pod", "main")))) {
      expect("the first line that is followed", lines.readLine(), text.split("\n")[0]);
    }
  }

  static boolean run() throws Exception {
    Map<String, Part> parts = new LinkedHashMap<>();
    parts.put("version", Main::version);
    parts.put("crud", Main::crud);
    parts.put("dynamic", Main::dynamic);
    parts.put("pages", Main::pages);
    parts.put("watch", Main::watching);
    parts.put("informer", Main::informer);
    parts.put("apply", Main::applying);
    parts.put("pod", Main::pod);
    parts.put("exec", Main::executing);
    parts.put("port-forward", Main::forwarding);
    parts.put("logs", Main::logs);
    long begun = System.nanoTime();
    core.createNamespace(new V1Namespace().metadata(new V1ObjectMeta().name(NAMESPACE))).execute();
    try {
      for (var part : parts.entrySet()) {
        try {
          part.getValue().run();
        } catch (Exception | AssertionError error) {
          String answer = error instanceof ApiException refusal ? " " + refusal.getCode() + " " + refusal.getResponseBody() : "";
          System.err.println("java: " + part.getKey() + ": " + error + answer);
          return false;
        }
        System.out.println("ok " + part.getKey());
      }
    } finally {
      core.deleteNamespace(NAMESPACE).execute();
    }
    System.out.printf("%d parts passed in %.1f s%n", parts.size(), (System.nanoTime() - begun) / 1e9);
    return true;
  }

  public static void main(String[] arguments) throws Exception {
    client = Config.fromConfig(System.getenv("KUBECONFIG"));
    client.setReadTimeout(0);
    core = new CoreV1Api(client);
    System.exit(run() ? 0 : 1);
  }
}
