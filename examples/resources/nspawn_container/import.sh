terraform import nspawn_container.web root@203.0.113.1:22/web
