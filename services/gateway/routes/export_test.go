package routes

import (
	"net/http"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

func request(method string, header http.Header) *message.Request {
	r := &message.Request{Method: method}
	r.Header.FromHTTP(header)
	return r
}

// Find returns the name of the route that takes a request, "" if none does.
func Find(routes Routes, host, path, method string, header http.Header) string {
	t, err := Compile(routes)
	if err != nil {
		return ""
	}
	if u := t.find(syntax.HostName(host), path, request(method, header), "192.0.2.1"); u != nil {
		return u.Name
	}
	return ""
}

// FindWithoutIndex is Find by trying all routes, without the index.
func FindWithoutIndex(routes Routes, host, path, method string, header http.Header) string {
	t, err := Compile(routes)
	if err != nil {
		return ""
	}
	host = syntax.HostName(host)
	for _, u := range t.Rules {
		h := u.Match.Host
		if h == "" || h == host || h[0] == '*' && len(host) >= len(h)-1 && host[len(host)-len(h)+1:] == h[1:] {
			if u.matches(path, request(method, header), "192.0.2.1") {
				return u.Name
			}
		}
	}
	return ""
}

// FindPath returns the route that takes a path, as it came, and the path that it sends.
func FindPath(text, path string) (name, sent string, err error) {
	var routes Routes
	if err := routes.Set(text); err != nil {
		return "", "", err
	}
	t, err := Compile(routes)
	if err != nil {
		return "", "", err
	}
	u, sent, err := t.Find(request(http.MethodGet, nil), path, "192.0.2.1")
	if u == nil {
		return "", "", err
	}
	return u.Name, sent, err
}
