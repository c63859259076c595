// Package catalog serves the list of films. The list is part of the program and does not change.
package catalog

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"bijou.dev/platform/service"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	"bijou.dev/services/cinema/films"
)

// New sets up a catalog service. It has no options: the films are part of the program.
func New(_ context.Context, setup *service.Setup) error {
	titles, report := films.Load()
	logReport(setup.Log(), report)
	if err := exportReport(setup.Metrics(), report); err != nil {
		return err
	}
	catalogv1.RegisterCatalogServer(setup.GRPC(), NewServer(titles, report))
	return nil
}

// logReport logs one line: how many records were loaded and skipped, and which faults they had.
func logReport(log *slog.Logger, r *catalogv1.ReportResponse) {
	found := make([]any, 0, len(r.Findings))
	for _, f := range r.Findings {
		found = append(found, slog.Int(f.Kind, int(f.Count)))
	}
	log.Info("films loaded", "records", r.Records, "loaded", r.Loaded, "skipped", r.Skipped,
		slog.Group("findings", found...))
}

// exportReport exports the report as metrics.
func exportReport(reg prometheus.Registerer, r *catalogv1.ReportResponse) error {
	records := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "cinema_films_records", Help: "Records of the film list by result: loaded or skipped.",
	}, []string{"result"})
	findings := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "cinema_films_findings", Help: "Faults found in the film list by kind.",
	}, []string{"kind"})
	records.WithLabelValues("loaded").Set(float64(r.Loaded))
	records.WithLabelValues("skipped").Set(float64(r.Skipped))
	for _, f := range r.Findings {
		findings.WithLabelValues(f.Kind).Set(float64(f.Count))
	}
	if err := reg.Register(records); err != nil {
		return err
	}
	return reg.Register(findings)
}
