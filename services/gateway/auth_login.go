package gateway

import (
	"errors"
	"net/http"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/auth/jwks"
	"bijou.dev/services/gateway/internal/auth/login"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/routes"
)

// loginMethod knows callers by the session that a log-in has left in their browser.
type loginMethod struct {
	login  *login.Login
	source *jwks.Source
}

// newLoginMethod returns the log-in of some settings. Routes with the same settings share one, also with the table
// before: it knows which sessions are being renewed.
func (e *Edge) newLoginMethod(from *routes.AuthLogin, with authParts) *loginMethod {
	source, key := with.sources[from.Provider()], from.Key()
	switch {
	case with.logins[key] != nil:
	case e.logins[key] != nil && e.logins[key].source == source:
		with.logins[key] = e.logins[key]
	default:
		with.logins[key] = &loginMethod{source: source, login: login.New(from.Options(), login.Parts{
			Secrets: e.secrets, Source: source, Client: e.opts.AuthClient, Log: e.log,
		})}
	}
	return with.logins[key]
}

// loginRequest is what the log-in needs of a request.
func (x *exchange) loginRequest() *login.Request {
	return &login.Request{
		Method: x.in.Method, Scheme: x.in.SeenScheme, Host: x.in.SeenHost, Path: x.to.Path, Query: x.in.Query,
		Header: x.in.Header, Cookies: x.cookie,
	}
}

func (m *loginMethod) find(x *exchange) found {
	if m.login.Handles(x.to.Path) {
		return found{login: m, answers: true}
	}
	claims, cookie, err := m.login.Session(x.in.Ctx, x.loginRequest())
	switch {
	case err != nil:
		return found{unknown: err}
	case claims == nil:
		return found{login: m}
	}
	if cookie != "" {
		x.out.Extra.Add("Set-Cookie", cookie)
	}
	return found{caller: &auth.Caller{Method: methodLogin, Claims: claims}}
}

const methodLogin = "login"

// challenge names a scheme that is not registered: HTTP has none for sessions in cookies.
func (*loginMethod) challenge(route, _ string) string { return "Session realm=" + auth.Quoted(route) }

// suits reports whether a log-in can help: programs get 401 instead.
func (*loginMethod) suits(x *exchange) bool {
	return !x.in.GRPC && x.in.Upgrade == "" && login.IsNavigation(x.in.Method, x.in.Header)
}

// begin sends the browser to the provider.
func (m *loginMethod) begin(x *exchange) *flow.Failure {
	return x.loginResponse(m.login.Begin(x.in.Ctx, x.loginRequest()))
}

// handle answers a request that is for the log-in itself.
func (m *loginMethod) handle(x *exchange) *flow.Failure {
	return x.loginResponse(m.login.Handle(x.in.Ctx, x.loginRequest()))
}

func (x *exchange) loginResponse(res *login.Response, err error) *flow.Failure {
	if err == nil {
		x.answered = true
		x.out.Whole(res.Status, res.Header, "")
		return nil
	}
	if r, ok := errors.AsType[*login.Refusal](err); ok && r.Status < 500 {
		return flow.Fail(flow.FaultClient, r.Status, "%s", r.Text)
	}
	return flow.Fail(flow.FaultAuth, http.StatusServiceUnavailable, "logging in is not possible now: %v", err)
}
