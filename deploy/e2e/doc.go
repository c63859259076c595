// Package e2e tests the assembled platform. A test of it is a story, such as "an instance is killed under load", in
// which no request may fail.
//
// Each story is written once, against [platform], and runs over three runners: all services in this process with an
// etcd child process; each service as a process, as `bijou up` runs compose.yaml; and as containers, as `docker compose
// up` runs it. All use the real services and real sockets.
//
//	go test ./deploy/e2e                      every story, over the first two
//	make test-containers                      every story over containers; needs an engine
//	go test ./deploy/e2e -run InProcess       one runner
//	go test ./deploy/e2e -run Story/killed    one story
//	make faults SEED=7                        every fault under load, as a table in docs/faults.md
//
// A fault is a story with figures: requests at random times drawn from a seed, how many were sent and failed, how long
// the recovery took, how many retries there were, and whether each instance used as much memory, files and goroutines
// afterwards as before. Each fault is a value of type [fault] in one of the faults_*_test.go files. Those that are
// short are also run by a plain go test, with shorter periods before and after the fault.
package e2e
