package kv

import (
	"strings"
	"time"

	"bijou.dev/platform/errs"
)

// Validate returns an error of kind errs.Invalid or errs.Exhausted if t breaks the rules of the contract. Stores call
// it before anything else.
func (t Txn) Validate() error {
	if n := max(len(t.If), len(t.Then)); n > MaxOps {
		return errs.Errorf(errs.Invalid, "checking transaction: %d conditions or operations, at most %d fit: split it",
			n, MaxOps)
	}
	for _, c := range t.If {
		if err := ValidateKey(c.Key); err != nil {
			return err
		}
		if c.Modified < 0 {
			return errs.Errorf(errs.Invalid, "checking condition on %q: revision %d is negative", c.Key, c.Modified)
		}
	}
	size := 0
	seen := make(map[string]bool, len(t.Then))
	for _, op := range t.Then {
		if err := op.validate(); err != nil {
			return err
		}
		if seen[op.Key] {
			return errs.Errorf(errs.Invalid, "checking transaction: key %q is changed twice", op.Key)
		}
		seen[op.Key] = true
		size += len(op.Key) + len(op.Value)
	}
	if size > MaxTxn {
		return errs.Errorf(errs.Exhausted,
			"checking transaction: %d bytes of keys and values from %q on, at most %d fit: split it",
			size, t.Then[0].Key, MaxTxn)
	}
	return nil
}

func (op Op) validate() error {
	if err := ValidateKey(op.Key); err != nil {
		return err
	}
	if n := len(op.Value); n > MaxValue {
		return errs.Errorf(errs.Exhausted, "checking value of %q: %d bytes, at most %d fit", op.Key, n, MaxValue)
	}
	return nil
}

// ValidateKey returns an error of kind errs.Invalid if key breaks the rules.
func ValidateKey(key string) error {
	var rule string
	switch {
	case !strings.HasPrefix(key, "/"):
		rule = `must start with "/"`
	case strings.HasSuffix(key, "/"):
		rule = `must not end in "/"`
	case strings.Contains(key, "//"):
		rule = "must not have an empty segment"
	case len(key) > MaxKey:
		return errs.Errorf(errs.Invalid, "checking key %.64q...: must be at most %d bytes, is %d",
			key, MaxKey, len(key))
	default:
		return nil
	}
	return errs.Errorf(errs.Invalid, "checking key %q: %s", key, rule)
}

// ValidatePrefix returns an error of kind errs.Invalid if prefix breaks the rules.
func ValidatePrefix(prefix string) error {
	if prefix == "/" {
		return nil
	}
	key, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return errs.Errorf(errs.Invalid, `checking prefix %q: must end in "/"`, prefix)
	}
	return ValidateKey(key)
}

// ValidateTTL returns an error of kind errs.Invalid if ttl is too short for a lease.
func ValidateTTL(ttl time.Duration) error {
	if ttl < MinTTL {
		return errs.Errorf(errs.Invalid, "checking lease: ttl %v is below %v", ttl, MinTTL)
	}
	return nil
}
