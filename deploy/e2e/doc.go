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
//	make faults SEED=7                        every fault under load, as a table in docs/faults.md
//
// A fault is a story with figures: open-loop arrivals drawn from a seed, what was offered and failed, how long it took to
// recover, how many retries it cost, and whether everything was as before when it was over. Each is a value of type
// [fault] in one of the faults_*_test.go files; those that are short are told by go test, too, with less time around them.
package e2e
