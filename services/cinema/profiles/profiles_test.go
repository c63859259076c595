package profiles_test

import (
	"errors"
	"strings"
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

func TestHouseholdLasts(t *testing.T) {
	o := profiles.Options{Dir: t.TempDir()}
	s := open(t, o)
	if _, err := s.Create(t.Context(), &profilesv1.CreateRequest{Id: "zoe", Name: " Zoë "}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), &profilesv1.CreateRequest{
		Id: "load-1", Name: "Load",
		Household: "audience",
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if diff := cmp.Diff([]string{"Ingrid", "Marcel", "Noor", "Theo", "Zoë"}, names(t, s, "")); diff != "" {
		t.Errorf("home (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Load"}, names(t, s, "audience")); diff != "" {
		t.Errorf("audience (-want +got):\n%s", diff)
	}
}

func TestCreateIsIdempotent(t *testing.T) {
	s := open(t, profiles.Options{Household: []string{}})
	ask := &profilesv1.CreateRequest{Id: "a", Name: "Anna"}
	first, err := s.Create(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Create(t.Context(), ask)
	if err != nil || !again.Created.AsTime().Equal(first.Created.AsTime()) {
		t.Errorf("second time: %v, %v", again, err)
	}
	if _, err := s.Create(t.Context(), &profilesv1.CreateRequest{Id: "a", Name: "Other"}); !errors.Is(err, errs.Exists) {
		t.Errorf("another name under the same id: %v", err)
	}
	if got := names(t, s, ""); len(got) != 1 {
		t.Errorf("profiles %v", got)
	}
}

func TestRefusals(t *testing.T) {
	s := open(t, profiles.Options{})
	for name, r := range map[string]*profilesv1.CreateRequest{
		"no id": {Name: "A"}, "capitals": {Id: "A", Name: "A"}, "long id": {Id: strings.Repeat("a", 65), Name: "A"},
		"no name": {Id: "a", Name: "  "}, "long name": {Id: "a", Name: strings.Repeat("é", 41)},
		"household": {Id: "a", Name: "A", Household: "/"},
	} {
		if _, err := s.Create(t.Context(), r); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Get(t.Context(), &profilesv1.GetRequest{Id: "nobody"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := profiles.Open(profiles.Options{Household: []string{"Jean Luc"}}); err == nil ||
		!strings.Contains(err.Error(), "Household[0]") {
		t.Errorf("a name that makes no id: %v", err)
	}
}
