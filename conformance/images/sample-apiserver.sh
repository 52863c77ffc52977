# An API server that the aggregation layer is tested with.
root server; busybox server
go_program conformance/images/sample-apiserver k8s.io/sample-apiserver "$work/server/sample-apiserver"
pack server --entrypoint /sample-apiserver --name registry.k8s.io/e2e-test-images/sample-apiserver:1.29.2
