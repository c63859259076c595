package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// store is the folder that keeps everything. Files are replaced as a whole, so that other replicas read whole ones.
type store struct{ dir string }

const (
	challenges = "challenges" // the folder of answers to challenges

	// staleLock is how old the lock of a process that was killed becomes. An order takes at most orderTime.
	staleLock = 2 * orderTime
)

func (s store) init() error { return os.MkdirAll(filepath.Join(s.dir, challenges), 0o700) }

// read returns nil if there is no such file.
func (s store) read(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func (s store) write(name string, data []byte) error {
	name = filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-") // only its owner can read it
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error says more
	}
	return err
}

func (s store) remove(name string) { _ = os.Remove(filepath.Join(s.dir, name)) } // a file that stays does no harm

// lock takes the lock of the folder. False: another process has it.
func (s store) lock() (unlock func(), ok bool) {
	name := filepath.Join(s.dir, "lock")
	if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > staleLock {
		_ = os.Remove(name) // of a process that was killed
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, false
	}
	_ = f.Close() // nothing was written
	return func() { _ = os.Remove(name) }, true
}

// key returns the private key of a file, which it makes if there is none.
func (s store) key(name string) (crypto.Signer, error) {
	data, err := s.read(name)
	if err != nil {
		return nil, err
	}
	if data == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if data, err = encode(key, nil); err != nil {
			return nil, err
		}
		return key, s.write(name, data)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	return signer, nil
}

// encode returns a key and its chain of certificates in PEM.
func encode(key crypto.PrivateKey, chain [][]byte) ([]byte, error) {
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	for _, der := range chain {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return data, nil
}
