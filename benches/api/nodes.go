package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Between two changes of Nodes: time for the one before to be done with.
const changePause = 20 * time.Millisecond

// peer is a Node with a tunnel: number and generation say what is in it.
func peer(number, generation int, backend string) (string, []byte, error) {
	name := fmt.Sprintf("peer-%04d", number)
	address := fmt.Sprintf("172.30.%d.%d", 1+number/250, 1+number%250)
	pods := fmt.Sprintf("10.%d.%d.0/24", 129+number/250, number%250)
	prefix := "flannel.alpha.coreos.com/"
	annotations := map[string]string{
		prefix + "kube-subnet-manager": "true",
		prefix + "backend-type":        backend,
		prefix + "public-ip":           address,
	}
	if backend == "vxlan" {
		mac := fmt.Sprintf("02:00:00:%02x:%02x:%02x", generation, number>>8, number&0xff)
		annotations[prefix+"backend-data"] = fmt.Sprintf(`{"VNI":1,"VtepMAC":"%s"}`, mac)
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{"name": name, "annotations": annotations},
		"spec":     map[string]any{"podCIDR": pods, "podCIDRs": []string{pods}},
		"status":   map[string]any{"addresses": []any{map[string]string{"type": "InternalIP", "address": address}}},
	})
	return name, body, err
}

// peers creates Nodes.
func (s *apiServer) peers(count, clients int, backend string) error {
	return s.each(count, clients, func(client, number int) error {
		name, body, err := peer(number, 0, backend)
		if err != nil {
			return err
		}
		if err := s.do(client, http.MethodPost, "/api/v1/nodes", body); err != nil {
			return err
		}
		return s.do(client, http.MethodPut, "/api/v1/nodes/"+name+"/status", body)
	})
}

// tunnels gives one Node after the other another Ethernet address, and tells when each change was
// sent, in nanoseconds since 1970.
func (s *apiServer) tunnels(count, nodes int) error {
	sent := make([]int64, 0, count)
	for change := range count {
		name, body, err := peer(change%nodes, 1+change/nodes, "vxlan")
		if err != nil {
			return err
		}
		time.Sleep(changePause)
		sent = append(sent, time.Now().UnixNano())
		if err := s.do(0, http.MethodPut, "/api/v1/nodes/"+name, body); err != nil {
			return err
		}
	}
	return tell(map[string]any{"sent": sent})
}
