package apikey_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/services/gateway/internal/auth/apikey"
)

// newKey makes a key and its hash.
func newKey() (key, sum string) {
	key = rand.Text() + rand.Text()
	hash := sha256.Sum256([]byte(key))
	return key, hex.EncodeToString(hash[:])
}

func TestKeysAreFoundByTheirHash(t *testing.T) {
	ci, ciSum := newKey()
	next, nextSum := newKey()
	other, _ := newKey()
	table, err := apikey.Compile(apikey.List{{"ci", ciSum}, {"ci", strings.ToUpper(nextSum)}})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		ci: "ci", next: "ci", other: "", "": "", ciSum: "", ci + " ": "", ci[1:]: "", strings.Repeat("x", 1<<20): "",
	} {
		if name, ok := table.Find(key); name != want || ok != (want != "") {
			t.Errorf("%.80q: %q, %v; want %q", key, name, ok, want)
		}
	}
	if _, ok := (*apikey.Table)(nil).Find(ci); ok {
		t.Error("an empty table has a key")
	}
}

func TestListsThatAreRefused(t *testing.T) {
	p, err := config.ParseProperty(&configv1.Property{
		Name: "keys", Type: configv1.Type_TYPE_JSON, DefaultValue: "[]", JsonSchema: apikey.List(nil).JSONSchema(),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, sum := newKey()
	for _, c := range []struct {
		list, want string
		late       bool // only the edge refuses it
	}{
		{`[{"name":"a b","sha256":"` + sum + `"}]`, "[0].name", false},
		{`[{"name":"a","sha256":"` + sum[1:] + `"}]`, "[0].sha256", false},
		{`[{"name":"a","sha256":"` + sum + `00"}]`, "[0].sha256", false},
		{`[{"name":"a","sha256":"x` + sum[1:] + `"}]`, "[0].sha256", false},
		{`[{"name":"a"}]`, "[0].sha256", false},
		{`[{"name":"a","sha256":"` + sum + `"},{"name":"b","sha256":"` + sum + `"}]`, "[1].sha256 is that of another", true},
	} {
		var list apikey.List
		if err := json.Unmarshal([]byte(c.list), &list); err != nil {
			t.Fatal(err)
		}
		if err := list.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.list, err, c.want)
		}
		if err := p.Check(c.list); (err != nil) == c.late {
			t.Errorf("%s: the schema gives the error %v, want an error: %t", c.list, err, !c.late)
		}
	}
	if err := make(apikey.List, 10_001).Validate(); err == nil {
		t.Error("10,001 keys were accepted")
	}
}

func BenchmarkFind(b *testing.B) {
	var list apikey.List
	for i := range 10_000 {
		sum := sha256.Sum256(fmt.Append(nil, i))
		list = append(list, apikey.Entry{Name: fmt.Sprint("k", i), SHA256: hex.EncodeToString(sum[:])})
	}
	key, sum := newKey()
	list[0].SHA256 = sum
	table, err := apikey.Compile(list)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := table.Find(key); !ok {
			b.Fatal("the key was not found")
		}
	}
}
