// Package search finds films by a few letters of their title, director or genre.
//
// The words of all films are one finite-state transducer (github.com/blevesearch/vellum): a sorted dictionary that
// answers "which words begin with" and "which words are within two slips of" in microseconds, held in memory.
package search

import (
	"context"

	"bijou.dev/platform/service"
	searchv1 "bijou.dev/services/cinema/api/search/v1"
	"bijou.dev/services/cinema/films"
)

// Options is empty: the films are part of the program.
type Options struct{}

// New sets up a search service.
func New(_ context.Context, setup *service.Setup, _ Options) error {
	titles, _ := films.Load()
	s, err := NewServer(titles)
	if err != nil {
		return err
	}
	searchv1.RegisterSearchServer(setup.GRPC(), s)
	return nil
}
