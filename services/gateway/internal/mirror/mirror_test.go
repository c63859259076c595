package mirror_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/mirror"
)

// body is a body that has come.
type body struct{ io.Reader }

func (body) Trailer() message.Header       { return nil }
func (body) Received() (n int, whole bool) { return 0, false }
func (body) Interrupt()                    {}
func (body) Malformed() bool               { return false }

func TestARecorderKeepsAWholeBody(t *testing.T) {
	for name, c := range map[string]struct {
		in     io.Reader
		length int64
		want   string // "-": nothing
	}{
		"of known length":        {strings.NewReader("abcdef"), 6, "abcdef"},
		"of unknown length":      {strings.NewReader("abcdef"), -1, "abcdef"},
		"byte by byte":           {iotest.OneByteReader(strings.NewReader("abcdef")), -1, "abcdef"},
		"with the end":           {iotest.DataErrReader(strings.NewReader("abcdef")), -1, "abcdef"},
		"empty":                  {strings.NewReader(""), -1, ""},
		"of eight bytes":         {strings.NewReader("abcdefgh"), -1, "abcdefgh"},
		"of nine bytes":          {strings.NewReader("abcdefghi"), -1, "-"},
		"of nine known bytes":    {strings.NewReader("abcdefghi"), 9, "-"},
		"that ends too early":    {io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF)), 6, "-"},
		"shorter than announced": {strings.NewReader("abc"), 6, "-"},
	} {
		got, calls := "-", 0
		r := &mirror.Recorder{Body: body{c.in}, Length: c.length, Most: 8, Whole: func(content []byte) {
			got, calls = string(content), calls+1
		}}
		_, _ = io.ReadAll(r) // the original gets the error
		if want := min(1, len(strings.TrimPrefix(c.want, "-"))+strings.Count(name, "empty")); got != c.want || calls != want {
			t.Errorf("a body %s: kept %q in %d calls, want %q", name, got, calls, c.want)
		}
	}
}

// The original gets each byte and error as without a copy.
func TestARecorderChangesNothing(t *testing.T) {
	for _, most := range []int64{0, 3, 100} {
		in := io.MultiReader(strings.NewReader("abcdef"), iotest.ErrReader(io.ErrClosedPipe))
		got, err := io.ReadAll(&mirror.Recorder{Body: body{in}, Length: -1, Most: most, Whole: func([]byte) {
			t.Errorf("at most %d: a body that broke off is whole", most)
		}})
		if string(got) != "abcdef" || !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("at most %d: got %q, %v; want abcdef and the error of the client", most, got, err)
		}
	}
}

func TestContentAndSink(t *testing.T) {
	if err := iotest.TestReader(mirror.NewContent([]byte("abcdef")), []byte("abcdef")); err != nil {
		t.Error(err)
	}
	s := &mirror.Sink{Most: 8}
	for i, want := range []error{nil, nil, mirror.ErrLong} {
		if _, err := s.Write([]byte("abcd")); !errors.Is(err, want) {
			t.Errorf("write %d: error %v, want %v", i, err, want)
		}
	}
}

func TestABudgetIsNotExceeded(t *testing.T) {
	b := mirror.NewBudget(10)
	for i, c := range []struct {
		n    int64
		want bool
	}{{6, true}, {5, false}, {4, true}, {1, false}} {
		if got := b.Take(c.n); got != c.want {
			t.Errorf("take %d of %d bytes: %t, want %t", i, c.n, got, c.want)
		}
	}
	b.Release(6)
	if !b.Take(6) {
		t.Error("what was given back cannot be taken")
	}
}
