# Debian with the tools that ask name servers; tests compare what glibc's resolver says with what dig says.
debian deb bash bind9-dnsutils bind9-host coreutils dash debianutils grep hostname libc-bin sed
root deb
ln -sf dash "$work/deb/bin/sh"
pack deb --cmd bash --name registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0
