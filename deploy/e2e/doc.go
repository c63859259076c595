// Package e2e tells stories about the assembled platform: "an instance is killed under load and no request fails".
//
// Each story is written once, against [platform], and told over three runners: all services in this process over an
// embedded etcd; as processes of their own, as `bijou up` runs compose.yaml; and as containers, as `docker compose up`
// does. All are the real programs over real sockets.
//
//	go test ./deploy/e2e                      every story, over the first two
//	make test-containers                      every story over containers; needs an engine
//	go test ./deploy/e2e -run InProcess       one runner
//	go test ./deploy/e2e -run Story/killed    one story
package e2e
