package term

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// LogLine makes a line of JSON from slog or zap readable: "WARN listening again addr=:7000". Times, stack traces, empty
// fields and the fields in drop are left out. In any other line, control characters are escaped and tabs become blanks.
func LogLine(s Style, line string, drop ...string) Painted {
	fields, ok := parseFields(line)
	if !ok {
		return Plain(strings.ReplaceAll(line, "\t", "    "))
	}
	hidden := map[string]bool{"time": true, "ts": true, "caller": true, "stacktrace": true}
	for _, name := range drop {
		hidden[name] = true
	}
	var level, msg string
	var rest Painted
	for _, f := range fields {
		switch {
		case f.name == "level":
			level = strings.ToUpper(f.value)
		case f.name == "msg":
			msg = f.value
		case !hidden[f.name] && f.value != "":
			rest += " " + s.Dim(f.name+"=") + Plain(f.value)
		}
	}
	return paintLevel(s, level) + Plain(msg) + rest
}

func paintLevel(s Style, level string) Painted {
	switch {
	case level == "" || level == "INFO":
		return ""
	case strings.HasPrefix(level, "ERROR"):
		return s.Red(level) + " "
	case strings.HasPrefix(level, "WARN"):
		return s.Yellow(level) + " "
	default:
		return s.Dim(level) + " "
	}
}

type field struct{ name, value string }

// parseFields reads a JSON object with a message, keeping the order of its fields.
func parseFields(line string) ([]field, bool) {
	if !strings.HasPrefix(line, "{") || !strings.Contains(line, `"msg"`) {
		return nil, false
	}
	dec := json.NewDecoder(strings.NewReader(line))
	if _, err := dec.Token(); err != nil {
		return nil, false
	}
	var fields []field
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, false
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, false
		}
		text := fieldText(raw)
		if ns, err := strconv.ParseInt(text, 10, 64); err == nil && name == "took" { // as slog writes a duration
			text = micros(ns / 1000)
		}
		fields = append(fields, field{fmt.Sprint(name), text})
	}
	return fields, true
}

func fieldText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return string(raw)
	}
	return text
}
