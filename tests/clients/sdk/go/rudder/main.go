// Command rudder uses RudderStack's analytics-go as an application does.
package main

import (
	"encoding/json"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rudderlabs/analytics-go/v4"
)

// report receives the result of each message from the SDK. The program prints it.
type report struct {
	sync.Mutex
	pending   sync.WaitGroup
	Delivered int      `json:"delivered"`
	Errors    []string `json:"errors"`
}

func (r *report) Success(analytics.Message) {
	r.Lock()
	defer r.Unlock()
	r.Delivered++
	r.pending.Done()
}

func (r *report) Failure(_ analytics.Message, err error) {
	r.Lock()
	defer r.Unlock()
	r.Errors = append(r.Errors, err.Error())
	r.pending.Done()
}

func main() {
	edge, writeKey := os.Getenv("EDGE"), os.Getenv("WRITE_KEY")
	callback := &report{Errors: []string{}}

	// docs
	client, err := analytics.NewWithConfig(writeKey, analytics.Config{DataPlaneUrl: edge, BatchSize: 8, Callback: callback})
	// /docs
	if err != nil {
		panic(err)
	}
	messages := []analytics.Message{
		analytics.Identify{UserId: "u-1", Traits: analytics.NewTraits().Set("plan", "pro")},
		analytics.Track{
			UserId: "u-1",
			Event:  "Order Completed",
			Properties: analytics.NewProperties().Set("item", "T-Shirt").Set("revenue", 19.99).
				Set("sizes", []int{1, 2}).Set("buyer", map[string]string{"name": "é😀"}),
			Context: &analytics.Context{IP: net.ParseIP("24.5.68.47")},
		},
		analytics.Track{
			UserId: "u-1", Event: "Elsewhere",
			Integrations: analytics.NewIntegrations().EnableAll().Disable("Keen IO"),
		},
		analytics.Track{
			AnonymousId: "a-1", Event: "Old Event",
			OriginalTimestamp: time.Date(2012, 12, 2, 0, 30, 12, 984_000_000, time.UTC),
		},
		analytics.Page{
			UserId: "u-1", Name: "Index",
			Properties: analytics.NewProperties().Set("url", "https://example.com/docs"),
		},
		analytics.Screen{UserId: "u-1", Name: "Main"},
		analytics.Group{UserId: "u-1", GroupId: "g-1", Traits: analytics.NewTraits().SetName("Initech")},
		analytics.Alias{UserId: "u-1", PreviousId: "a-1"},
	}
	callback.pending.Add(len(messages))
	for _, message := range messages {
		if err := client.Enqueue(message); err != nil {
			panic(err)
		}
	}
	// Close discards messages that have failed once, so the program waits for the callback first.
	callback.pending.Wait()
	if err := client.Close(); err != nil {
		panic(err)
	}
	callback.Lock()
	defer callback.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(callback); err != nil {
		panic(err)
	}
}
