<%@ page contentType="text/html; charset=UTF-8" session="true" import="java.nio.charset.StandardCharsets,java.nio.file.*,java.util.*" %><%!
    private static final Path ORDERS = Path.of(System.getProperty("catalina.base"), "data", "orders.txt");

    // A line of the file is an order.
    private static synchronized void order(List<String> things) throws java.io.IOException {
        Files.writeString(ORDERS, String.join(", ", things) + "\n", StandardCharsets.UTF_8,
            StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }

    private static synchronized List<String> orders() throws java.io.IOException {
        return Files.exists(ORDERS) ? Files.readAllLines(ORDERS, StandardCharsets.UTF_8) : List.of();
    }

    private static String escape(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\"", "&quot;");
    }
%><%
    request.setCharacterEncoding("UTF-8");
    @SuppressWarnings("unchecked")
    List<String> basket = (List<String>) session.getAttribute("basket");
    if (basket == null) {
        basket = Collections.synchronizedList(new ArrayList<>());
        session.setAttribute("basket", basket);
    }
    if ("POST".equals(request.getMethod())) {
        String thing = request.getParameter("thing");
        if (thing != null && !thing.isBlank()) {
            basket.add(thing.replaceAll("\\s+", " ").strip());
        } else if (request.getParameter("order") != null && !basket.isEmpty()) {
            order(basket);
            basket.clear();
        }
        response.sendRedirect(request.getContextPath() + "/basket");
        return;
    }
%><!doctype html>
<title>A basket of your own</title>
<h1>A basket of your own</h1>
<form method="post" action="/basket"><input name="thing" required> <button>Add</button></form>
<ul id="basket"><% for (String thing : basket) { %>
  <li><%= escape(thing) %></li><% } %>
</ul>
<form method="post" action="/basket"><button name="order" value="1">Order</button></form>
<ol id="orders"><% for (String order : orders()) { %>
  <li><%= escape(order) %></li><% } %>
</ol>
