package server

// Limit is how many handlers a started server lets run.
func (s *Server) Limit() int { return s.load.Load().Limit() }
