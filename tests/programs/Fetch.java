import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Prints the page of each address. */
class Fetch {
    public static void main(String[] addresses) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String address : addresses) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(address)).build();
            System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }
}
