module bijou.dev/services/hello

go 1.26.0

require bijou.dev/platform v0.0.0

replace bijou.dev/platform => ../../platform
