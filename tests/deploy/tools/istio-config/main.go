// Prints the listeners, routes and clusters that Istio's control plane would send to a gateway's Envoy, as JSON. The
// arguments are files with Istio's objects.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/core"
	"istio.io/istio/pkg/test"
)

func main() {
	var documents []string
	for _, path := range os.Args[1:] {
		text, err := os.ReadFile(path)
		if err != nil {
			fail(err)
		}
		documents = append(documents, string(text))
	}
	labels := map[string]string{"istio": "ingressgateway"}
	var output map[string][]json.RawMessage
	err := test.Wrap(func(t test.Failer) {
		istio := core.NewConfigGenTest(t, core.TestOptions{ConfigString: strings.Join(documents, "\n---\n")})
		gateway := istio.SetupProxy(&model.Proxy{
			Type:            model.Router,
			ConfigNamespace: "istio-system",
			Labels:          labels,
			Metadata:        &model.NodeMetadata{Namespace: "istio-system", Labels: labels},
		})
		output = map[string][]json.RawMessage{
			"listeners": encoded(istio.Listeners(gateway)),
			"routes":    encoded(istio.Routes(gateway)),
			"clusters":  encoded(istio.Clusters(gateway)),
		}
	})
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(output); err != nil {
		fail(err)
	}
}

func encoded[M proto.Message](messages []M) []json.RawMessage {
	options := protojson.MarshalOptions{UseProtoNames: true}
	out := make([]json.RawMessage, 0, len(messages))
	for _, message := range messages {
		text, err := options.Marshal(message)
		if err != nil {
			fail(err)
		}
		out = append(out, text)
	}
	return out
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
