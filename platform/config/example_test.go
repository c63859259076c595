package config_test

import (
	"fmt"

	"bijou.dev/platform/config"
)

// A set without a service: settings with bounds, changed while the program runs.
func Example() {
	set := config.Static(map[string]string{"search.limit": "50"})
	limit := config.Int(set, "search.limit", 20, config.Spec{Doc: "Most hits on a page.", Min: "1", Max: "100"})
	stop := limit.Watch(func(old, now int64) { fmt.Println("changed from", old, "to", now) })
	defer stop()

	fmt.Println("limit", limit.Get())
	fmt.Println(set.Put("search.limit", "10"))
	fmt.Println(set.Put("search.limit", "1000"))
	fmt.Println("limit", limit.Get())
	// Output:
	// limit 50
	// changed from 50 to 10
	// <nil>
	// setting "search.limit": value must be at most 100, is 1000
	// limit 10
}
