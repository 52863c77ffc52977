# What holds a pod's namespaces open. Skeg's nodes bring one of their own; hack/peer's and tests that run it get upstream's.
need cc gcc
root pause
sources=$(module_dir conformance/upstream k8s.io/kubernetes)/build/pause/linux
cc -Os -Wall -static -DVERSION=3.10.2 -o "$work/pause/pause" "$sources/pause.c"
pack pause --entrypoint /pause --user 65535:65535 --name registry.k8s.io/pause:3.10.2
