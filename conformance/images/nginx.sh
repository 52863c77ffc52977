# A web server as docker.io/library/nginx configures it.
root nginx; busybox nginx
debian deb nginx-light
programs deb nginx nginx
mkdir -p "$work/nginx/etc/nginx/conf.d" "$work/nginx/usr/share/nginx/html" "$work/nginx"/var/{log,lib}/nginx "$work/nginx/var/cache/nginx" "$work/nginx/run"
cp "$work/deb/etc/nginx/mime.types" "$work/nginx/etc/nginx/"
cat > "$work/nginx/etc/nginx/nginx.conf" <<'N'
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
  include mime.types;
  access_log /dev/stdout;
  include conf.d/*.conf;
}
N
cat > "$work/nginx/etc/nginx/conf.d/default.conf" <<'N'
server {
  listen 80;
  location / { root /usr/share/nginx/html; index index.html; }
}
N
printf '<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n' \
  > "$work/nginx/usr/share/nginx/html/index.html"
pack nginx --cmd nginx --cmd=-g --cmd 'daemon off;' --stop-signal SIGQUIT --expose 80/tcp \
  --name docker.io/library/nginx:latest --name docker.io/library/nginx:1.27 --name docker.io/library/nginx:1.29 \
  --name registry.k8s.io/e2e-test-images/nginx:1.15-4 --name registry.k8s.io/e2e-test-images/nginx:1.27-0
