module bijou.dev/services/etcd

go 1.26.0
