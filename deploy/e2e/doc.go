// Package e2e tells stories about the assembled platform: "an instance is killed under load and no request fails".
//
// Each story is written once, against [platform], and told over two runners: all services in this process over an
// embedded etcd, and as processes of their own, as `bijou up` runs compose.yaml. Both are the real programs over real
// sockets on the loopback.
//
//	go test ./deploy/e2e                      every story, both runners
//	go test ./deploy/e2e -run InProcess       one runner
//	go test ./deploy/e2e -run Story/killed    one story
package e2e
