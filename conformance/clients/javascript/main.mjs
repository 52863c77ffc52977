// The JavaScript client library against a cluster: see ../README.md for what each program does.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { PassThrough, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import * as k8s from '@kubernetes/client-node';

const image = 'registry.k8s.io/e2e-test-images/agnhost:2.63.0';
const namespace = `client-javascript-${randomBytes(3).toString('hex')}`;
const deadline = 60_000;
const config = new k8s.KubeConfig();
config.loadFromFile(process.env.KUBECONFIG);
const core = config.makeApiClient(k8s.CoreV1Api);
const path = `/api/v1/namespaces/${namespace}/configmaps`;
const as = (strategy) => k8s.setHeaderOptions('Content-Type', strategy);
const configMap = (name, data, kind) => ({ metadata: { name, labels: { kind } }, data });

async function until(what, condition) {
  for (const end = Date.now() + deadline; Date.now() < end; await sleep(100)) {
    const value = await condition();
    if (value) return value;
  }
  throw new Error(`not so after ${deadline / 1000} s: ${what}`);
}

/** The promise fails with this code and reason; gives the Status. */
async function refused(code, reason, promise) {
  const error = await promise.then(() => assert.fail(`it succeeded, expected ${code} ${reason}`), (error) => error);
  if (!(error instanceof k8s.ApiException)) throw error;
  const status = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
  assert.deepEqual([error.code, status.kind, status.reason], [code, 'Status', reason]);
  return status;
}

class Collected extends Writable {
  chunks = [];
  _write(chunk, _encoding, done) { this.chunks.push(Buffer.from(chunk)); done(); }
  get bytes() { return Buffer.concat(this.chunks); }
  get text() { return this.bytes.toString(); }
}

async function version() {
  assert.equal((await config.makeApiClient(k8s.VersionApi).getCode()).major, '1');
  const groups = (await config.makeApiClient(k8s.ApisApi).getAPIVersions()).groups.map((group) => group.name);
  assert.ok(groups.includes('apps') && groups.includes('apiextensions.k8s.io'), `the groups are ${groups}`);
}

async function crud() {
  const made = await core.createNamespacedConfigMap({ namespace, body: configMap('crud', { a: '1' }, 'crud') });
  assert.ok(made.metadata.uid && made.metadata.creationTimestamp instanceof Date);
  assert.deepEqual(await core.readNamespacedConfigMap({ namespace, name: 'crud' }), made);
  await refused(409, 'AlreadyExists', core.createNamespacedConfigMap({ namespace, body: configMap('crud') }));
  const status = await refused(422, 'Invalid', core.createNamespacedConfigMap({ namespace, body: configMap('No_Name') }));
  assert.deepEqual(status.details.causes.map((cause) => cause.field), ['metadata.name']);
  made.data.a = '2';
  assert.deepEqual((await core.replaceNamespacedConfigMap({ namespace, name: 'crud', body: made })).data, { a: '2' });
  await refused(409, 'Conflict', core.replaceNamespacedConfigMap({ namespace, name: 'crud', body: made }));
  const patches = [
    [k8s.PatchStrategy.MergePatch, { data: { a: null, b: '3' } }, { b: '3' }],
    [k8s.PatchStrategy.StrategicMergePatch, { data: { c: '4' } }, { b: '3', c: '4' }],
    [k8s.PatchStrategy.JsonPatch, [{ op: 'remove', path: '/data/b' }], { c: '4' }],
  ];
  for (const [strategy, body, data] of patches) {
    assert.deepEqual((await core.patchNamespacedConfigMap({ namespace, name: 'crud', body }, as(strategy))).data, data, strategy);
  }
  await core.createNamespacedConfigMap({ namespace, body: configMap('other', {}, 'crud'), dryRun: 'All' });
  const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: 'kind=crud' });
  assert.deepEqual(listed.items.map((item) => item.metadata.name), ['crud']);
  await core.deleteNamespacedConfigMap({ namespace, name: 'crud' });
  await refused(404, 'NotFound', core.readNamespacedConfigMap({ namespace, name: 'crud' }));
}

/** The client that knows no types. */
async function untyped() {
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const labels = { app: 'untyped' };
  const made = await objects.create({
    apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name: 'untyped', namespace },
    spec: { replicas: 0, selector: { matchLabels: labels }, template: { metadata: { labels }, spec: { containers: [{ name: 'main', image }] } } },
  });
  assert.equal(made.spec.template.spec.restartPolicy, 'Always');
  assert.equal((await objects.list('apps/v1', 'Deployment', namespace)).items.length, 1);
  await objects.delete(made);
}

async function watching() {
  const begin = (await core.listNamespacedConfigMap({ namespace })).metadata.resourceVersion;
  const seen = [];
  const watch = await new k8s.Watch(config).watch(path, { resourceVersion: begin, labelSelector: 'kind=watch' },
    (type, object) => seen.push(`${type} ${object.data.a}`), () => {});
  await core.createNamespacedConfigMap({ namespace, body: configMap('seen', { a: '1' }, 'watch') });
  await core.patchNamespacedConfigMap({ namespace, name: 'seen', body: { data: { a: '2' } } }, as(k8s.PatchStrategy.MergePatch));
  await core.deleteNamespacedConfigMap({ namespace, name: 'seen' });
  await until('three events', () => seen.length >= 3);
  watch.abort();
  assert.deepEqual(seen, ['ADDED 1', 'MODIFIED 2', 'DELETED 2']);
}

async function informer() {
  await core.createNamespacedConfigMap({ namespace, body: configMap('before', {}, 'informer') });
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'kind=informer' });
  const informed = k8s.makeInformer(config, path, list, 'kind=informer');
  const told = new Set();
  for (const event of ['add', 'update', 'delete']) informed.on(event, (object) => told.add(`${event} ${object.metadata.name}`));
  await informed.start();
  await core.createNamespacedConfigMap({ namespace, body: configMap('after', {}, 'informer') });
  await core.patchNamespacedConfigMap({ namespace, name: 'before', body: { data: { x: 'y' } } }, as(k8s.PatchStrategy.MergePatch));
  await core.deleteNamespacedConfigMap({ namespace, name: 'after' });
  const wanted = ['add before', 'add after', 'update before', 'delete after'];
  await until(`the informer tells ${wanted}`, () => wanted.every((event) => told.has(event)));
  assert.deepEqual(informed.list().map((item) => item.data), [{ x: 'y' }]);
  await informed.stop();
}

async function applying() {
  const apply = (fieldManager, data, force) => core.patchNamespacedConfigMap({
    namespace, name: 'applied', fieldManager, force, body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'applied' }, data },
  }, as(k8s.PatchStrategy.ServerSideApply));
  await apply('one', { a: '1', b: '1' });
  const status = await refused(409, 'Conflict', apply('two', { a: '2' }));
  assert.deepEqual(status.details.causes.map((cause) => [cause.reason, cause.field]), [['FieldManagerConflict', '.data.a']]);
  await apply('two', { a: '2' }, true);
  const result = await apply('one');
  assert.deepEqual(result.data, { a: '2' });
  assert.deepEqual(result.metadata.managedFields.map((entry) => [entry.manager, entry.operation]), [['two', 'Apply']]);
}

async function customResource() {
  const group = `${namespace}.example.com`;
  const definitions = config.makeApiClient(k8s.ApiextensionsV1Api);
  const size = { type: 'integer', minimum: 1, _default: 2 };
  await definitions.createCustomResourceDefinition({ body: {
    metadata: { name: `widgets.${group}` },
    spec: {
      group, scope: 'Namespaced', names: { plural: 'widgets', singular: 'widget', kind: 'Widget' },
      versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: {
        type: 'object', properties: { spec: { type: 'object', properties: { size } } } } } }],
    },
  } });
  try {
    await until('the definition is established', async () => (await definitions.readCustomResourceDefinition({ name: `widgets.${group}` }))
      .status?.conditions?.some((condition) => condition.type === 'Established' && condition.status === 'True'));
    const where = { group, version: 'v1', namespace, plural: 'widgets' };
    const widget = (name, spec) => ({ apiVersion: `${group}/v1`, kind: 'Widget', metadata: { name }, spec });
    const custom = config.makeApiClient(k8s.CustomObjectsApi);
    assert.deepEqual((await custom.createNamespacedCustomObject({ ...where, body: widget('w', { unknown: 1 }) })).spec, { size: 2 });
    await refused(422, 'Invalid', custom.createNamespacedCustomObject({ ...where, body: widget('x', { size: 0 }) }));
    assert.equal((await custom.listNamespacedCustomObject(where)).items.length, 1);
  } finally {
    await definitions.deleteCustomResourceDefinition({ name: `widgets.${group}` });
  }
}

async function pod() {
  const containers = [{ name: 'main', image, args: ['netexec', '--http-port=8080'] }];
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'pod' }, spec: { containers, terminationGracePeriodSeconds: 0 } } });
  await until('the pod runs', async () => (await core.readNamespacedPod({ namespace, name: 'pod' })).status.phase === 'Running');
}

async function executing() {
  const run = async (command, input) => {
    const [out, fault] = [new Collected(), new Collected()];
    const status = await new Promise((resolve, reject) => {
      new k8s.Exec(config).exec(namespace, 'pod', 'main', command, out, fault, input, false, resolve).catch(reject);
      sleep(deadline, undefined, { ref: false }).then(() => reject(new Error(`${command[0]} did not end`)));
    });
    return { out, fault, status };
  };
  const input = new PassThrough();
  input.write('hello\n');
  const { out, fault, status } = await run(['sh', '-c', 'read line; echo out $line; echo err >&2; exit 3'], input);
  assert.deepEqual([out.text, fault.text], ['out hello\n', 'err\n']);
  assert.deepEqual([status.status, status.reason, status.details.causes[0].message], ['Failure', 'NonZeroExitCode', '3']);
  const large = await run(['head', '-c', '3000000', '/dev/zero'], null);
  assert.deepEqual([large.status.status, large.out.bytes.length], ['Success', 3_000_000]);
}

async function forwarding() {
  const [output, faults, input] = [new Collected(), new Collected(), new PassThrough()];
  const socket = await new k8s.PortForward(config).portForward(namespace, 'pod', [8080], output, faults, input);
  input.write('GET /echo?msg=through HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n');
  await until('the forwarded port answers', () => output.text.endsWith('through'));
  socket.close();
  assert.ok(output.text.startsWith('HTTP/1.1 200 OK'), output.text);
  assert.equal(faults.text, '');
}

async function logs() {
  const text = await until('the log tells of the request', async () => {
    const text = await core.readNamespacedPodLog({ namespace, name: 'pod' });
    return text.split('Started').length === 3 && text.includes('GET /echo') && text;
  });
  assert.equal(await core.readNamespacedPodLog({ namespace, name: 'pod', tailLines: 1 }), text.split(/(?<=\n)/).at(-1));
  const followed = new Collected();
  const abort = await new k8s.Log(config).log(namespace, 'pod', 'main', followed, { follow: true });
  await until('the whole log is followed', () => followed.text === text);
  abort.abort();
}

const parts = [version, crud, untyped, watching, informer, applying, customResource, pod, executing, forwarding, logs];
const begun = Date.now();
await core.createNamespace({ body: { metadata: { name: namespace } } });
try {
  for (const part of parts) {
    try {
      await part();
    } catch (error) {
      console.error(`javascript: ${part.name}: ${error.stack}`);
      process.exitCode = 1;
      break;
    }
    console.log(`ok ${part.name}`);
  }
} finally {
  await core.deleteNamespace({ name: namespace });
}
if (!process.exitCode) console.log(`${parts.length} parts passed in ${((Date.now() - begun) / 1000).toFixed(1)} s`);
process.exit();
