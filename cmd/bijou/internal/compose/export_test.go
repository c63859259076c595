package compose

import "github.com/compose-spec/compose-go/v2/types"

// Rewrite translates one value of a service with one replica, for fuzzing without a file.
func Rewrite(service, value string) (string, error) {
	port := 20000
	pl := &planner{
		project: &types.Project{Services: types.Services{service: {Name: service}}},
		opts: Options{Port: func(int) (int, error) {
			port++
			return port, nil
		}},
		ports: map[string]map[int]string{}, listens: map[string]map[int]bool{},
		hosts: map[string][]string{service: {service}},
	}
	w := rewriter{
		planner: pl, service: service, instance: service + "-1",
		folders: map[string]Folder{"/data": {Path: "/v"}},
	}
	return w.value("VALUE", value)
}
