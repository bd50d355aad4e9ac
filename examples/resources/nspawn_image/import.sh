terraform import nspawn_image.debian root@203.0.113.1:22/debian-13
