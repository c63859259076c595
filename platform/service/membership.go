package service

import (
	"context"

	"bijou.dev/platform/discovery"
)

// membership is how a process takes part in the registry: it follows the registry, and is registered there. Without
// seeds there is no registry: then the membership is nil, and its methods do nothing.
type membership struct {
	client    *discovery.Client
	registrar *discovery.Registrar // set when setup has ended, because it needs the endpoints
}

func (m *membership) tasks() []task {
	if m == nil {
		return nil
	}
	return []task{{"discovery", m.client.Run}, {"registration", m.registrar.Run}}
}

// registered reports whether the registry has the process, and why not. Without a registry it is true: nothing is
// missing.
func (m *membership) registered() (ok bool, reason string) {
	if m == nil {
		return true, "there is no registry"
	}
	return m.registrar.Registered()
}

func (m *membership) setStatus(s discovery.Status) {
	if m != nil {
		m.registrar.SetStatus(s)
	}
}

func (m *membership) drain(ctx context.Context) error {
	if m == nil {
		return nil
	}
	return m.registrar.Drain(ctx)
}

func (m *membership) leave(ctx context.Context) error {
	if m == nil {
		return nil
	}
	return m.registrar.Leave(ctx)
}
