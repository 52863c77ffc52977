# Small programs and a shell.
root busybox; busybox busybox
pack busybox --cmd sh --name docker.io/library/busybox:latest --name docker.io/library/busybox:1.37 --name docker.io/library/busybox:1.36 \
  --name registry.k8s.io/e2e-test-images/busybox:1.37.0-1 --name registry.k8s.io/e2e-test-images/busybox:1.36.1-1
# The same under another user, from upstream's test/images/nonroot.
mkdir "$work/nonroot"; install -d -o 1234 -g 1234 "$work/nonroot/home/nonroot"
pack nonroot --onto registry.k8s.io/e2e-test-images/busybox:1.37.0-1 --user 1234 --name registry.k8s.io/e2e-test-images/nonroot:1.5
# Tells its effective user, and is set-user-ID; from upstream's test/images/nonewprivs.
go_program conformance/upstream k8s.io/kubernetes/test/images/nonewprivs "$work/nonewprivs/usr/local/bin/nnp"
chmod 6755 "$work/nonewprivs/usr/local/bin/nnp"
pack nonewprivs --onto registry.k8s.io/e2e-test-images/busybox:1.37.0-1 --cmd nnp --name registry.k8s.io/e2e-test-images/nonewprivs:1.4
