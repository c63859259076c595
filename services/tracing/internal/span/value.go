package span

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
)

// attribute reads a KeyValue as a tag.
func attribute(m string) (t Tag, err error) {
	err = fields(m, func(num int, _ uint64, f string) (err error) {
		switch num {
		case 1:
			t.Key = f
		case 2:
			t.Value, err = valueText(f)
		}
		return err
	})
	return t, err
}

// valueText writes an AnyValue as a tag: strings as they are, numbers in decimal, bytes in base64, the rest as JSON.
func valueText(m string) (string, error) {
	if len(m) > 0 && m[0] == 1<<3|2 { // nearly all values are one string
		if size, n := uvarint(m[1:]); n > 0 && size == uint64(len(m)-1-n) {
			return m[1+n:], nil
		}
	}
	v, err := plain(m, 0)
	switch v := v.(type) {
	case nil:
		return "", err
	case string:
		return v, err
	case bool:
		return strconv.FormatBool(v), err
	case int64:
		return strconv.FormatInt(v, 10), err
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), err
	}
	b, _ := json.Marshal(v) // plain returns only values that JSON has
	return string(b), err
}

// plain returns an AnyValue as a value that encoding/json can write. Values that are nested too deep become "...".
func plain(m string, depth int) (out any, err error) {
	if depth > maxDepth {
		return "...", nil
	}
	err = fields(m, func(num int, v uint64, f string) (err error) {
		switch num {
		case 1:
			out = f
		case 2:
			out = v != 0
		case 3:
			out = int64(v)
		case 4:
			out = math.Float64frombits(v)
			if d := math.Float64frombits(v); depth > 0 && (math.IsNaN(d) || math.IsInf(d, 0)) {
				out = strconv.FormatFloat(d, 'g', -1, 64)
			}
		case 5:
			out, err = array(f, depth+1)
		case 6:
			out, err = object(f, depth+1)
		case 7:
			out = base64.StdEncoding.EncodeToString([]byte(f))
		}
		return err
	})
	return out, err
}

func array(m string, depth int) (any, error) {
	list := []any{}
	err := fields(m, func(num int, _ uint64, f string) error {
		if num != 1 || len(list) >= MaxTags {
			return nil
		}
		v, err := plain(f, depth)
		list = append(list, v)
		return err
	})
	return list, err
}

func object(m string, depth int) (any, error) {
	set := make(map[string]any)
	err := fields(m, func(num int, _ uint64, f string) error {
		if num != 1 {
			return nil
		}
		return member(set, f, depth)
	})
	return set, err
}

// member reads a KeyValue into an object.
func member(set map[string]any, m string, depth int) error {
	if len(set) >= MaxTags {
		return nil
	}
	var key string
	var value any
	err := fields(m, func(num int, _ uint64, f string) (err error) {
		switch num {
		case 1:
			key = f
		case 2:
			value, err = plain(f, max(1, depth))
		}
		return err
	})
	set[key] = value
	return err
}
