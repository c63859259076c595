package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxDepth is how deep objects and lists may be nested in what CheckJSON accepts.
const maxDepth = 100

// CheckJSON returns an error unless data is one JSON value, nested at most 100 deep, in which no object has a key
// twice. The error names the key with its path. Programs differ in which of the two values they use, so the writer of a
// document and its reader could mean different things.
func CheckJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	switch path, err := checkValue(d, 0); {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, errTwice):
		return fmt.Errorf("the field %.200q %w", strings.TrimPrefix(path, "."), err)
	case err != nil:
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there must be one JSON value and nothing behind it")
	}
	return nil
}

var (
	errTwice = errors.New("must not be given twice")
	errDeep  = fmt.Errorf("values must be nested at most %d deep", maxDepth)
)

// checkValue reads the next value. The path is that of the key that is given twice.
func checkValue(d *json.Decoder, depth int) (path string, err error) {
	t, err := d.Token()
	if err != nil {
		return "", err
	}
	if depth > maxDepth {
		return "", errDeep
	}
	switch t {
	case json.Delim('{'):
		return checkObject(d, depth)
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			if path, err := checkValue(d, depth+1); err != nil {
				return fmt.Sprintf("[%d]%s", i, path), err
			}
		}
		_, err = d.Token()
	}
	return "", err
}

func checkObject(d *json.Decoder, depth int) (path string, err error) {
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return "", err
		}
		key := t.(string) // the decoder accepts nothing else as a key
		if seen[key] {
			return "." + key, errTwice
		}
		seen[key] = true
		if path, err := checkValue(d, depth+1); err != nil {
			return "." + key + path, err
		}
	}
	_, err = d.Token()
	return "", err
}
