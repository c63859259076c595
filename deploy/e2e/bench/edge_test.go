package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestTableReplacesOnlyItsSection(t *testing.T) {
	before, after := "# Benchmarks\n\ntext\n\n", "\n## Against the aims\n\nmore\n"
	for name, section := range map[string]string{
		"first run": edgeTitle + "\nNot measured yet.\n", "later run": edgeTitle + "\nold\n\n| a | b |\n|---|---|\n",
	} {
		got, err := replaceSection([]byte(before+section+after), "new\n")
		if want := before + edgeTitle + "\nnew\n" + after; err != nil || string(got) != want {
			t.Errorf("%s: the document is %q, error %v, want %q and nil", name, got, err, want)
		}
	}
	got, err := replaceSection([]byte(before+edgeTitle+"\nold\n"), "new\n")
	if want := before + edgeTitle + "\nnew\n"; err != nil || string(got) != want {
		t.Errorf("as the last section: the document is %q, error %v, want %q and nil", got, err, want)
	}
	if _, err := replaceSection([]byte(before+after), "new\n"); err == nil {
		t.Error("a document without the heading was changed, want an error")
	}
}

func TestTableNamesMissingProxies(t *testing.T) {
	all := []candidate{{name: "HAProxy 2.6.12"}, {name: "Envoy", missing: "not installed (make peers)"}, {name: "edge"}}
	cpu, memory := measured{}, measured{}
	for i, us := range []float64{20, 30, 40} {
		cpu.add("HAProxy 2.6.12", "small", us)
		cpu.add("edge", "small", us*float64(2+i))
	}
	for _, c := range all {
		for _, k := range edgeKinds[1:] {
			cpu.add(c.name, k.load, 10)
		}
		for _, k := range idleKinds {
			memory.add(c.name, k.open, 5)
		}
	}
	got := edgeOptions{rounds: 3, each: time.Second}.table(all, cpu, memory)
	for _, want := range []string{
		"| HAProxy 2.6.12 | 30 us [20 to 40] x1 | 10 us x1 |",
		"| Envoy | not installed (make peers) |",
		"| edge | 90 us [40 to 160] x3 | 10 us x1 | 10 us x1 | 5 KiB x1 |",
		"UNSTEADY: HTTP/1.1, 47 bytes: HAProxy 2.6.12 varied by 100 %",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table has no %q:\n%s", want, got)
		}
	}
}

// Workers of nginx are processes below the one that was started: they must count.
func TestProcessesBelowAProcessCount(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec 3<&0; cat <&3 & echo started; wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill() // cat ends with its input
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, len("started"))); err != nil {
		t.Fatal(err)
	}
	all, err := processesOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 {
		t.Fatalf("sh with one process below it has the processes %v, want two", all)
	}
	if own, err := residentOf(os.Getpid()); err != nil || own <= 0 {
		t.Errorf("this process uses %d bytes, error %v, want more than 0 and nil", own, err)
	}
	if own, err := cpuOf(os.Getpid()); err != nil || own <= 0 {
		t.Errorf("this process used %v of CPU, error %v, want more than 0 and nil", own, err)
	}
}
