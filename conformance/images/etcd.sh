# etcd, as the storage of sample-apiserver.
root etcd; busybox etcd
go_program conformance/images/etcd go.etcd.io/etcd/server/v3 "$work/etcd/usr/local/bin/etcd"
go_program conformance/images/etcd go.etcd.io/etcd/etcdctl/v3 "$work/etcd/usr/local/bin/etcdctl"
pack etcd --cmd /usr/local/bin/etcd --name registry.k8s.io/etcd:3.6.8-0
