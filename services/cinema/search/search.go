// Package search finds films by words of their title, director or genre. The last word may be incomplete.
//
// The words of all films are in one finite-state transducer (github.com/blevesearch/vellum) in memory: a sorted
// dictionary that finds the words with a prefix, and the words within an edit distance of 2, in microseconds.
package search

import (
	"context"

	"bijou.dev/platform/service"
	searchv1 "bijou.dev/services/cinema/api/search/v1"
	"bijou.dev/services/cinema/films"
)

// New sets up a search service. It has no options: the films are part of the program.
func New(_ context.Context, setup *service.Setup) error {
	titles, _ := films.Load()
	s, err := NewServer(titles)
	if err != nil {
		return err
	}
	searchv1.RegisterSearchServer(setup.GRPC(), s)
	return nil
}
