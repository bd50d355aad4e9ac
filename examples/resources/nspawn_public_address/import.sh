terraform import nspawn_public_address.web_ipv4 root@203.0.113.1:22/203.0.113.2
terraform import nspawn_public_address.web_prefix root@203.0.113.1:22/2001:db8:1:5::/80
