# The program that most of upstream's tests run in their pods, with the tools they call beside it; see test/images/agnhost
# in the kubernetes module. Upstream's images nautilus and kitten are agnhost with two more files.
root agnhost; busybox agnhost
debian tools bash bind9-dnsutils bind9-host curl libc-bin iperf iproute2 netcat-openbsd util-linux
programs tools agnhost bash getent getconf curl dig host nslookup iperf ip ss nc.openbsd nsenter unshare
ln -sf /usr/bin/iperf "$work/agnhost/usr/local/bin/iperf"
ln -sf nc.openbsd "$work/agnhost/bin/nc"
go_program conformance/upstream k8s.io/kubernetes/test/images/agnhost "$work/agnhost/agnhost"
ln -s agnhost "$work/agnhost/agnhost-2"
sources=$(module_dir conformance/upstream k8s.io/kubernetes)/test/images
install -m 644 "$sources"/agnhost/porter/localhost.{crt,key} "$work/agnhost/"
mkdir "$work/agnhost/uploads"
echo 'user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh' >> "$work/agnhost/etc/passwd"
printf 'user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n' >> "$work/agnhost/etc/group"
install -d -o 1000 -g 1000 "$work/agnhost/home/user-defined-in-image"
# Upstream's is made on Alpine Linux: who looks into the image knows it by this file.
printf 'NAME="Alpine Linux"\nID=alpine\nPRETTY_NAME="stand-in for an image of Alpine Linux"\n' > "$work/agnhost/etc/os-release"
ports=$(printf -- '--expose %s/tcp ' 80 8080 8081 9376 5000)
agnhost=registry.k8s.io/e2e-test-images/agnhost:2.63.0
pack agnhost --entrypoint /agnhost --cmd pause $ports --name "$agnhost"

# The former release is there to be updated from: the same program, as another image.
mkdir -p "$work/former/etc"; echo 2.55 > "$work/former/etc/agnhost-release"
pack former --onto "$agnhost" --name registry.k8s.io/e2e-test-images/agnhost:2.55

for animal in nautilus kitten; do
  mkdir "$work/$animal"; install -m 644 "$sources/$animal/html/"* "$work/$animal/"
  pack "$animal" --onto "$agnhost" --cmd test-webserver --name "registry.k8s.io/e2e-test-images/$animal:1.8"
done
