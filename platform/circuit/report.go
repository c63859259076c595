package circuit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/pace"
	"google.golang.org/grpc"
)

const (
	reportInterval = time.Second
	// reportStream is how long one stream lasts. A new stream finds replicas of the circuits service that started
	// later.
	reportStream = 5 * time.Minute
	// reportSend is how long sending may wait for a replica that does not read.
	reportSend = 5 * time.Second
	reportWait = 10 * time.Second
)

// Report sends the snapshots to the circuits service each second until ctx ends, and returns ctx's error. If that
// fails it retries with back-off until it succeeds and drops the reports that it could not send: calls never wait for
// it. The log says when reporting stops and resumes.
func (s *Set) Report(ctx context.Context, conn grpc.ClientConnInterface) error {
	client := circuitsv1.NewCircuitsClient(conn)
	wait, broken := pace.Backoff{First: reportInterval / 4, Max: reportWait}, false
	for ctx.Err() == nil {
		sent, err := s.reportOnce(ctx, client, &broken)
		if sent > 1 {
			wait.Reset()
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if !broken {
			broken = true
			s.log.Warn("circuits are not reported; trying again", "error", err)
		}
		wait.Wait(ctx)
	}
	return ctx.Err()
}

// reportOnce sends over one stream until it is due for renewal, which is no error, or breaks.
// It clears broken when reports arrive.
func (s *Set) reportOnce(ctx context.Context, client circuitsv1.CircuitsClient, broken *bool) (sent int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stuck := time.AfterFunc(reportSend, cancel)
	defer stuck.Stop()
	stream, err := client.Report(ctx)
	if err != nil {
		return 0, fmt.Errorf("opening the report stream: %w", err)
	}
	for end := time.Now().Add(pace.Jitter(reportStream, 0.05)); time.Now().Before(end); sent++ {
		stuck.Reset(reportSend)
		if err := stream.Send(s.report()); err != nil {
			return sent, reportError(stream, err)
		}
		stuck.Stop()
		if *broken && sent == 1 { // the first may only have gone into a buffer
			*broken = false
			s.log.Info("circuits are reported again")
		}
		if !pace.Sleep(stream.Context(), pace.Jitter(reportInterval, 0.05)) {
			return sent, reportError(stream, io.EOF)
		}
	}
	stuck.Reset(reportSend)
	_, err = stream.CloseAndRecv()
	return sent, err
}

// report returns the state of the process.
func (s *Set) report() *circuitsv1.ReportRequest {
	req := &circuitsv1.ReportRequest{Service: s.opts.Service, Instance: s.opts.Instance, Circuits: s.Snapshots()}
	if s.opts.Served != nil {
		req.Served, req.Internet = s.opts.Served.Proto()
	}
	return req
}

// reportError asks the stream why it ended: Send says only that it did.
func reportError(stream circuitsv1.Circuits_ReportClient, err error) error {
	if errors.Is(err, io.EOF) {
		if _, cause := stream.CloseAndRecv(); cause != nil {
			err = cause
		}
	}
	return fmt.Errorf("reporting circuits: %w", err)
}
