import io.trino.server.Server;

/** Starts the server as Trino's own launcher does; the argument is the version it tells. */
public final class TrinoServer {
  public static void main(String[] arguments) {
    new Server().start(arguments[0]);
  }
}
