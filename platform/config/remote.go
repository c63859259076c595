package config

// remote is what a set needs to follow the config service.
type remote struct{}

func (r *remote) declarationsChanged() {}
