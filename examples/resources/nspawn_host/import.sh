terraform import nspawn_host.server root@203.0.113.1:22

# With a host key that is in no known_hosts file, through a bastion:
terraform import nspawn_host.server 'root@203.0.113.1:22?host_key=SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og&bastion=jump@198.51.100.9:22'
