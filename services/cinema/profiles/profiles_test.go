package profiles_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bijou.dev/platform/errs"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	"bijou.dev/services/cinema/profiles"
)

func open(t *testing.T, o profiles.Options) *profiles.Server {
	t.Helper()
	s, err := profiles.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// create creates a profile, which must work.
func create(t *testing.T, s *profiles.Server, id, name, household string) *profilesv1.Profile {
	t.Helper()
	p, err := s.Create(t.Context(), &profilesv1.CreateRequest{Id: id, Name: name, Household: household})
	if err != nil {
		t.Fatalf("creating profile %q: %v", id, err)
	}
	return p
}

// names returns the names in a household in order.
func names(t *testing.T, s *profiles.Server, household string) (out []string) {
	t.Helper()
	all, err := s.List(t.Context(), &profilesv1.ListRequest{Household: household})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all.Profiles {
		out = append(out, p.Name)
	}
	return out
}

func TestProfilesSurviveARestart(t *testing.T) {
	o := profiles.Options{Dir: t.TempDir()}
	s := open(t, o)
	create(t, s, "zoe", " Zoë ", "")
	create(t, s, "load-1", "Load", "audience")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.Household = []string{"Other"} // the store is not empty
	s = open(t, o)
	for household, want := range map[string][]string{
		"":         {"Ingrid", "Marcel", "Noor", "Theo", "Zoë"},
		"home":     {"Ingrid", "Marcel", "Noor", "Theo", "Zoë"},
		"audience": {"Load"},
		"unknown":  nil,
	} {
		if diff := cmp.Diff(want, names(t, s, household)); diff != "" {
			t.Errorf("household %q (-want +got):\n%s", household, diff)
		}
	}
}

func TestFirstHousehold(t *testing.T) {
	for name, c := range map[string]struct{ household, want []string }{
		"default": {nil, []string{"Ingrid", "Marcel", "Noor", "Theo"}},
		"none":    {[]string{}, nil},
		"own":     {[]string{"Zed", "Amy"}, []string{"Zed", "Amy"}}, // in this order
	} {
		s := open(t, profiles.Options{Household: c.household})
		if diff := cmp.Diff(c.want, names(t, s, "")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, n := range c.want {
			p, err := s.Get(t.Context(), &profilesv1.GetRequest{Id: strings.ToLower(n)})
			if err != nil || p.Name != n {
				t.Errorf("%s: profile %s is %v, error %v", name, n, p, err)
			}
		}
	}
}

func TestCreateIsIdempotent(t *testing.T) {
	s := open(t, profiles.Options{Household: []string{}})
	first := create(t, s, "a", "Anna", "")
	again := create(t, s, "a", " Anna", "home")
	if !again.Created.AsTime().Equal(first.Created.AsTime()) {
		t.Errorf("the second call returned a profile created at %v, want the first one, created at %v",
			again.Created.AsTime(), first.Created.AsTime())
	}
	for name, r := range map[string]*profilesv1.CreateRequest{
		"another name":      {Id: "a", Name: "Other"},
		"another household": {Id: "a", Name: "Anna", Household: "attic"},
	} {
		if _, err := s.Create(t.Context(), r); !errors.Is(err, errs.Exists) {
			t.Errorf("the same id with %s: got %v, want Exists", name, err)
		}
	}
	if diff := cmp.Diff([]string{"Anna"}, names(t, s, "")); diff != "" {
		t.Errorf("profiles (-want +got):\n%s", diff)
	}
}

func TestConcurrentCreations(t *testing.T) {
	s := open(t, profiles.Options{Household: []string{}})
	var wg sync.WaitGroup
	for i := range 20 {
		for range 2 { // each is sent twice
			wg.Go(func() {
				_, err := s.Create(t.Context(), &profilesv1.CreateRequest{Id: fmt.Sprint("p", i), Name: "P"})
				if err != nil {
					t.Errorf("creating p%d: %v", i, err)
				}
			})
		}
	}
	wg.Wait()
	if got := len(names(t, s, "")); got != 20 {
		t.Errorf("there are %d profiles, want 20", got)
	}
}

func TestNamesOfPeople(t *testing.T) {
	s := open(t, profiles.Options{Household: []string{}})
	for i, name := range []string{"Ω", strings.Repeat("é", 40), "O'Neill <b>", "李小龍", "👩‍👧"} {
		if p := create(t, s, fmt.Sprint("p", i), name, ""); p.Name != name {
			t.Errorf("the name is %q, want %q", p.Name, name)
		}
	}
}

func TestWrongProfilesAreRefused(t *testing.T) {
	s := open(t, profiles.Options{})
	for name, c := range map[string]struct {
		request *profilesv1.CreateRequest
		field   string
	}{
		"no id":                  {&profilesv1.CreateRequest{Name: "A"}, "id"},
		"id with a capital":      {&profilesv1.CreateRequest{Id: "A", Name: "A"}, "id"},
		"id of 65 bytes":         {&profilesv1.CreateRequest{Id: strings.Repeat("a", 65), Name: "A"}, "id"},
		"id with a line break":   {&profilesv1.CreateRequest{Id: "a\n", Name: "A"}, "id"},
		"name of spaces":         {&profilesv1.CreateRequest{Id: "a", Name: "  "}, "name"},
		"name of 41 letters":     {&profilesv1.CreateRequest{Id: "a", Name: strings.Repeat("é", 41)}, "name"},
		"household with a slash": {&profilesv1.CreateRequest{Id: "a", Name: "A", Household: "/"}, "household"},
		"household of 65 letters": {
			&profilesv1.CreateRequest{Id: "a", Name: "A", Household: strings.Repeat("h", 65)}, "household",
		},
	} {
		if _, err := s.Create(t.Context(), c.request); !errors.Is(err, errs.Invalid) ||
			!strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: got %v, want Invalid that names %s", name, err, c.field)
		}
	}
	for _, id := range []string{"", "unknown", strings.Repeat("p", 100_000)} {
		if _, err := s.Get(t.Context(), &profilesv1.GetRequest{Id: id}); !errors.Is(err, errs.NotFound) {
			t.Errorf("profile %.20q: got %v, want NotFound", id, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := profiles.Open(profiles.Options{Household: []string{"Ann", "Jean Luc", ""}})
	if !errors.Is(err, errs.Invalid) {
		t.Fatalf("got %v, want Invalid", err)
	}
	for _, field := range []string{"Household[1]", "Household[2]"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the error %q does not name %s", err, field)
		}
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "profiles.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("damaged", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := profiles.Open(profiles.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "opening "+path) {
		t.Errorf("opening a damaged file: got %v, want an error that names the file", err)
	}
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	s := open(t, profiles.Options{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), &profilesv1.CreateRequest{Id: "a", Name: "A"}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Create: got %v, want Unavailable", err)
	}
	if _, err := s.List(t.Context(), &profilesv1.ListRequest{}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("List: got %v, want Unavailable", err)
	}
	if _, err := s.Get(t.Context(), &profilesv1.GetRequest{Id: "a"}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Get: got %v, want Unavailable", err)
	}
}
