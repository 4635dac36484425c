// Command clients uses analytics-go as an application does.
package main

import (
	"encoding/json"
	"net"
	"os"
	"sync"
	"time"

	"github.com/segmentio/analytics-go/v3"
)

// outcome is told by the SDK for each message, and by this program at its end.
type outcome struct {
	sync.Mutex
	left      sync.WaitGroup
	Delivered int      `json:"delivered"`
	Errors    []string `json:"errors"`
}

func (o *outcome) Success(analytics.Message) {
	o.Lock()
	defer o.Unlock()
	o.Delivered++
	o.left.Done()
}

func (o *outcome) Failure(_ analytics.Message, err error) {
	o.Lock()
	defer o.Unlock()
	o.Errors = append(o.Errors, err.Error())
	o.left.Done()
}

func main() {
	edge, writeKey := os.Getenv("EDGE"), os.Getenv("WRITE_KEY")
	told := &outcome{Errors: []string{}}

	// docs
	client, err := analytics.NewWithConfig(writeKey, analytics.Config{Endpoint: edge, BatchSize: 8, Callback: told})
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
			Timestamp: time.Date(2012, 12, 2, 0, 30, 12, 984_000_000, time.UTC),
		},
		analytics.Page{
			UserId: "u-1", Name: "Index",
			Properties: analytics.NewProperties().Set("url", "https://example.com/docs"),
		},
		analytics.Screen{UserId: "u-1", Name: "Main"},
		analytics.Group{UserId: "u-1", GroupId: "g-1", Traits: analytics.NewTraits().SetName("Initech")},
		analytics.Alias{UserId: "u-1", PreviousId: "a-1"},
	}
	told.left.Add(len(messages))
	for _, message := range messages {
		if err := client.Enqueue(message); err != nil {
			panic(err)
		}
	}
	// Close gives up what has failed once, so the SDK is let have its say first.
	told.left.Wait()
	if err := client.Close(); err != nil {
		panic(err)
	}
	told.Lock()
	defer told.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		panic(err)
	}
}
