package compose_test

import (
	"os"
	"path/filepath"
	"testing"

	"bijou.dev/cmd/bijou/internal/compose"
)

// FuzzLoad holds that no compose file does more than fail: it is loaded and planned, or refused.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("services: {a: {image: x, command: [\"a\"], environment: {A: \"b:80\"}, ports: [\"80:80\"], depends_on: [b]}, b: {image: y}}"))
	f.Add([]byte("x-a: &a {image: x}\nservices: {a: {<<: *a}, b: {<<: *a, volumes: [\"v:/v\"]}}\nvolumes: {v: }"))
	f.Add([]byte("services:\n  a: {depends_on: [a]}"))
	f.Add([]byte("services: [1]"))
	f.Add([]byte("a: &a [*a]"))
	file := filepath.Join(f.TempDir(), compose.FileName)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		project, err := compose.Load(t.Context(), file, nil)
		if err != nil {
			return
		}
		// it may well be refused
		_, _ = compose.NewPlan(project, compose.Options{Dir: "/v", Port: func(int) (int, error) { return 20000, nil }})
	})
}
